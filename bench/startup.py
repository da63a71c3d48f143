"""From the start of the forwarder's process to the first SERVING of its health service.

Beside it, what Python alone takes to start and to import gRPC: the part that is not ours.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.domain import program, wait_serving
from bench.results import Row, row
from tests.support.netns import network_namespace

GOAL = "< 1 s"


def serving_s() -> float:
    """Starts a forwarder, waits until it serves, and ends it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made, network_namespace() as netns:
        scratch = Path(made)
        start = time.monotonic()
        with program("forwarder", {"NSM_NEXT_HOP": "unix:///nowhere"}, scratch, netns) as process:
            wait_serving(scratch / "forwarder.sock", process, scratch / "forwarder.log")
            return time.monotonic() - start


def grpc_alone_s() -> float:
    """Starts Python, imports gRPC's asyncio part, and ends."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import asyncio, grpc.aio"], check=True)
    return time.monotonic() - start


def run(*, quick: bool) -> list[Row]:
    """Alternates the two."""
    rounds = 5 if quick else 15
    ours, baseline = [], []
    for _ in range(rounds):
        baseline.append(grpc_alone_s())
        ours.append(serving_s())
    return [
        row("start-to-serving", "s", ours, baseline="python -c 'import grpc.aio'", baseline_samples=baseline, goal=GOAL)
    ]
