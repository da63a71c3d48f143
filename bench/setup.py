"""vWires set up per second by the data plane alone: two memif servers and a vWire, clients that connect at once.

Beside it bare servers in C that do only the handshake and map the memory (native/servers.c). The
clients are the same: one process that connects eight at a time.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.programs import compiled, driven
from bench.results import Measured
from bench.run import Run, in_turn
from bench.trees import Tree

BARE = "bare C servers"
LOG2_RING = 8


def rate(tree: Tree | None, count: int) -> float:
    """Sets up `count` vWires in a fresh process, the bare one without a tree; returns how many per second."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made, ExitStack() as stack:
        scratch = Path(made)
        if tree is None:
            command, environment = [compiled("servers"), str(scratch), str(count)], None
        else:
            command, environment = tree.ours("vwires"), tree.environment()
        servers = stack.enter_context(driven(command, scratch / "servers.log", env=environment))
        servers.answer("ready")
        clients = [compiled("clients"), str(scratch), "0", str(count)]
        stack.enter_context(driven(clients, scratch / "clients.log"))
        (seconds,) = servers.ask("servers", scratch, 0, count, LOG2_RING)
    return count / seconds


def run(run: Run) -> list[Measured]:
    """Alternates all."""
    samples: dict[str, list[float]] = {BARE: []}
    contestants = [*run.trees, None]
    for turn in range(run.times(9, 3)):
        for tree in in_turn(contestants, turn):
            samples.setdefault(tree.name if tree else BARE, []).append(rate(tree, run.times(500, 150)))
    return [Measured(id="setup-memif", unit="vWires/s", samples=samples, baseline=BARE)]
