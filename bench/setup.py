"""vWires set up per second by the data plane alone: two memif servers and a vWire, clients that connect at once.

Beside it bare servers in C that do only the handshake and map the memory (native/servers.c). The
clients are the same: one process that connects eight at a time. Both share two CPUs with them, so
the CPU time of a set-up is told too: the event loop's and the worker's, without the clients'.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.programs import compiled, cpu_s, driven
from bench.results import Measured
from bench.run import Run, in_turn
from bench.trees import Tree

BARE = "bare C servers"
LOG2_RING = 8


def setups(tree: Tree | None, count: int) -> tuple[float, float]:
    """Sets up `count` vWires in a fresh process, the bare one without a tree.

    Returns how many per second, and the microseconds of its CPU time that one took.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as made, ExitStack() as stack:
        scratch = Path(made)
        if tree is None:
            command, environment = [compiled("servers"), str(scratch), str(count)], None
        else:
            command, environment = tree.ours("vwires"), tree.environment()
        servers = stack.enter_context(driven(command, scratch / "servers.log", env=environment))
        servers.answer("ready")
        before_s = cpu_s(servers.pid)
        clients = [compiled("clients"), str(scratch), "0", str(count)]
        stack.enter_context(driven(clients, scratch / "clients.log"))
        (seconds,) = servers.ask("servers", scratch, 0, count, LOG2_RING)
        return count / seconds, 1e6 * (cpu_s(servers.pid) - before_s) / count


def run(run: Run) -> list[Measured]:
    """Alternates all."""
    rates: dict[str, list[float]] = {BARE: []}
    cpu_us: dict[str, list[float]] = {BARE: []}
    contestants = [*run.trees, None]
    for turn in range(run.times(9, 3)):
        for tree in in_turn(contestants, turn):
            rate, us = setups(tree, run.times(500, 150))
            rates.setdefault(tree.name if tree else BARE, []).append(rate)
            cpu_us.setdefault(tree.name if tree else BARE, []).append(us)
    return [Measured(id="setup-memif", unit="vWires/s", samples=rates, baseline=BARE, further={"cpu_us": cpu_us})]
