"""What a thousand connected, silent vWires cost: CPU, and own memory for each.

Nine hundred of them are between memif clients, a hundred between kernel interfaces. CPU is that of
the whole process over some seconds; beside it dpdk-testpmd with one connected vWire. Memory is what
the process's resident set grew by from the first hundred memif vWires to all of them, without the
rings and buffers, which belong to the clients and are shared with them.
"""

import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import testpmd
from bench.population import population
from bench.programs import compiled, cpu_s, driven, running, status_kib
from bench.results import Measured
from bench.run import Run
from bench.trees import Tree

WARM, MEMIF, KERNEL = 100, 900, 100
SETTLE_S = 2.0
PEER = "dpdk-testpmd io, 1 vWire"


def percent(pid: int, seconds: float) -> float:
    """Returns the CPU a process takes, in percent of one."""
    before, start = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_s(pid) - before) / (time.monotonic() - start)


def testpmd_percent(seconds: float) -> float:
    """Returns what testpmd takes with nothing to do."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made, ExitStack() as stack:
        scratch = Path(made)
        sockets = [f"{scratch}/0-{end}" for end in "ab"]
        command = testpmd.cross_connect(sockets, cpu=1, log2_ring=10, huge=False)
        log = scratch / "testpmd.log"
        settings = {"env": testpmd.environment(scratch), "stdout": subprocess.DEVNULL}
        process = stack.enter_context(running(command, log, **settings))
        clients = [compiled("clients"), str(scratch), "0", "1"]
        stack.enter_context(driven(clients, scratch / "clients.log"))
        time.sleep(SETTLE_S)
        return percent(process.pid, seconds)


def one(tree: Tree, seconds: float, times: int) -> tuple[list[float], float, float]:
    """Returns percent of CPU, some times, and KiB per vWire: own, and all that is resident."""
    with population(tree) as made:
        made.memif(0, WARM)
        time.sleep(SETTLE_S)
        own, files, shared = status_kib(made.ours.pid, "RssAnon", "RssFile", "RssShmem")
        made.memif(WARM, MEMIF)
        time.sleep(SETTLE_S)
        own_after, files_after, shared_after = status_kib(made.ours.pid, "RssAnon", "RssFile", "RssShmem")
        made.kernel(0, KERNEL)
        time.sleep(SETTLE_S)
        cpu = [percent(made.ours.pid, seconds) for _ in range(times)]
    grown = own_after + files_after - own - files
    return cpu, grown / (MEMIF - WARM), (grown + shared_after - shared) / (MEMIF - WARM)


def run(run: Run) -> list[Measured]:
    """Measures both numbers of each tree, in populations made afresh."""
    cpu: dict[str, list[float]] = {PEER: [testpmd_percent(1)]}
    own: dict[str, list[float]] = {}
    resident: dict[str, list[float]] = {}
    for _ in range(run.times(5, 1)):
        for tree in run.trees:
            share, kib, all_kib = one(tree, run.times(3, 2), run.times(2, 2))
            cpu.setdefault(tree.name, []).extend(share)
            own.setdefault(tree.name, []).append(kib)
            resident.setdefault(tree.name, []).append(all_kib)
    made = [
        Measured(
            id="idle-cpu",
            unit="% of one core",
            samples=cpu,
            baseline=PEER,
            note=f"{MEMIF} memif and {KERNEL} kernel vWires",
        ),
        Measured(
            id="vwire-memory",
            unit="KiB",
            samples=own,
            further={"with_shared_pages": resident},
            note="memif at both sides; resident memory that is not shared with the clients",
        ),
    ]
    return [each for each in made if each.id in run.ids]
