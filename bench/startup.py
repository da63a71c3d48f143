"""From the start of the forwarder's process to the first SERVING of its health service.

Beside it, what Python alone takes to start and to import gRPC: the part that is not ours.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.domain import program, wait_serving
from bench.results import Measured
from bench.run import Run
from bench.trees import Tree
from tests.support.netns import network_namespace

ALONE = "python -c 'import grpc.aio'"


def serving_s(tree: Tree) -> float:
    """Starts a forwarder, waits until it serves, and ends it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made, network_namespace() as netns:
        scratch = Path(made)
        start = time.monotonic()
        with program("forwarder", {"NSM_NEXT_HOP": "unix:///nowhere"}, scratch, netns, tree=tree) as process:
            wait_serving(scratch / "forwarder.sock", process, scratch / "forwarder.log")
            return time.monotonic() - start


def grpc_alone_s() -> float:
    """Starts Python, imports gRPC's asyncio part, and ends."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import asyncio, grpc.aio"], check=True)
    return time.monotonic() - start


def run(run: Run) -> list[Measured]:
    """Alternates all."""
    samples: dict[str, list[float]] = {ALONE: []}
    for _ in range(run.times(15, 5)):
        samples[ALONE].append(grpc_alone_s())
        for tree in run.trees:
            samples.setdefault(tree.name, []).append(serving_s(tree))
    return [Measured(id="startup", unit="s", samples=samples, baseline=ALONE)]
