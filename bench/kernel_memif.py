"""TCP from a kernel interface into a memif and out of it again: kernel, memif, memif, kernel.

Two forwarders that are joined by a memif, each with a vWire from there to its pod's interface;
super-frames are segmented, checksums completed and segments coalesced again on the way. Beside it the
same chain with the offloads of the pods' links switched off, which is what a forwarder without all that
has to ask for, and a direct veth pair. iperf3, one stream, MTU 1500.
"""

from collections import defaultdict
from contextlib import ExitStack

from bench.kernel_paths import VETH, Path, direct, iperf_server, through_memif, transfer
from bench.results import Measured
from bench.run import Run, in_turn

OFF = "the same, offloads off"


def checksum_errors(path: Path) -> int:
    """Returns how many TCP segments the server's kernel has refused for their checksum."""
    names, values = (
        line.split()[1:]
        for line in path.server.run("cat", "/proc/net/snmp").stdout.splitlines()
        if line.startswith("Tcp:")
    )
    return int(dict(zip(names, values, strict=True))["InCsumErrors"])


def run(run: Run) -> list[Measured]:
    """Interleaves transfers; fails when a segment arrived with a wrong checksum."""
    rounds, seconds = run.times(12, 4), run.times(2, 1)
    gbps: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    openers = {tree.name: through_memif(tree) for tree in run.trees}
    openers |= {OFF: through_memif(run.trees[0], offloads=False), VETH: direct}
    with ExitStack() as stack:
        paths = {name: stack.enter_context(opener()) for name, opener in openers.items()}
        for path in paths.values():
            stack.enter_context(iperf_server(path))
        for path in paths.values():
            transfer(path, 1)  # warm
        for turn in range(rounds):
            for name in in_turn(list(paths), turn):
                rate, cost = transfer(paths[name], seconds)
                gbps[name].append(rate)
                cpu[name].append(cost)
        wrong = {name: count for name, path in paths.items() if (count := checksum_errors(path))}
        if wrong:
            raise RuntimeError(f"TCP segments with wrong checksums: {wrong}")
    return [
        Measured(
            id="kernel-memif-tcp",
            unit="Gbit/s",
            samples=gbps,
            baseline=OFF,
            references={"veth": VETH},
            further={"cpu_percent_per_gbps": cpu},
        )
    ]
