"""TCP from kernel to kernel, beside a direct veth pair and the Linux bridge.

Through the packet loop (NSM_DATAPATH=userspace), and over whatever the forwarder chooses by itself.
iperf3 with the kernel's defaults, one stream, MTU 1500, offloads on; each path in its turn for a
second or two, over and over.
"""

from collections import defaultdict
from contextlib import ExitStack

from bench.kernel_paths import BRIDGE, VETH, bridge, direct, iperf_server, transfer, vwire
from bench.results import Measured
from bench.run import Run, in_turn

DATAPATHS = {"kernel-tcp-userspace": "userspace", "kernel-tcp-auto": ""}


def run(run: Run) -> list[Measured]:
    """Interleaves transfers over all paths."""
    rounds, seconds = run.times(12, 5), run.times(2, 1)
    gbps: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    cpu: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    openers = {("", VETH): direct, ("", BRIDGE): bridge} | {
        (id, tree.name): vwire(tree, datapath=datapath)
        for id, datapath in DATAPATHS.items()  # noqa: A001 - the field's name
        if id in run.ids
        for tree in run.trees
    }
    with ExitStack() as stack:
        paths = {key: stack.enter_context(opener()) for key, opener in openers.items()}
        for path in paths.values():
            stack.enter_context(iperf_server(path))
        for path in paths.values():
            transfer(path, 1)  # warm
        for turn in range(rounds):
            for key in in_turn(list(paths), turn):
                rate, cost = transfer(paths[key], seconds)
                for id in DATAPATHS if not key[0] else [key[0]]:  # noqa: A001
                    gbps[id][key[1]].append(rate)
                    cpu[id][key[1]].append(cost)
    return [
        Measured(
            id=id,
            unit="Gbit/s",
            samples=gbps[id],
            baseline=VETH,
            references={"bridge": BRIDGE},
            further={"cpu_percent_per_gbps": cpu[id]},
        )
        for id in DATAPATHS  # noqa: A001
        if id in run.ids
    ]
