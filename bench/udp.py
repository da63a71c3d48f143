"""Small UDP frames from kernel to kernel through the packet loop, beside the Linux bridge.

A packet socket sends 64 byte frames as fast as the kernel takes them (native/flood.c); what counts
is what the interface of the receiving pod has received, into a socket that nobody reads. Each path
in its turn for a second, over and over.
"""

import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path as FilePath

from bench.kernel_paths import BRIDGE, VETH, Path, bridge, direct, link_of, source_of, vwire
from bench.programs import compiled, running, wait_line
from bench.results import Measured
from bench.run import Run, in_turn

WARM_S, RUN_S = 0.2, 0.8
DISCARD = 9


class Flow:
    """A sender and a receiver at the two ends of a path."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._link, mac = link_of(path.server, path.address)
        name, own_mac, own_address = source_of(path.client, path.address)
        self._arguments: Sequence[str] = (name, own_mac, mac, own_address, path.address)
        sink = stack.enter_context(path.server.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sink.bind((path.address, DISCARD))

    def received(self) -> tuple[float, int]:
        """Returns the time, and the frames that the receiving link has counted."""
        told = self._path.server.call(lambda: FilePath("/proc/thread-self/net/dev").read_text())
        line = next(line for line in told.splitlines() if line.strip().startswith(f"{self._link}:"))
        return time.monotonic(), int(line.split(":")[1].split()[1])

    def kpps(self, scratch: FilePath) -> float:
        """Sends for a while; returns thousands of frames received per second."""
        command = [compiled("flood"), *self._arguments, str(WARM_S + RUN_S + 0.2)]
        log = scratch / "flood.log"
        with running(self._path.client.argv(*command), log, pass_fds=(self._path.client.fd,)) as sender:
            time.sleep(WARM_S)
            start, first = self.received()
            time.sleep(RUN_S)
            end, last = self.received()
            wait_line(sender, "sent", log)
        return (last - first) / (end - start) / 1e3


def run(run: Run) -> list[Measured]:
    """Interleaves all paths."""
    kpps: dict[str, list[float]] = defaultdict(list)
    openers = {tree.name: vwire(tree, datapath="userspace") for tree in run.trees}
    openers |= {BRIDGE: bridge, VETH: direct}
    with ExitStack() as stack:
        scratch = FilePath(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        flows = {name: Flow(stack.enter_context(opener()), stack) for name, opener in openers.items()}
        for turn in range(run.times(15, 5)):
            for name in in_turn(list(flows), turn):
                kpps[name].append(flows[name].kpps(scratch))
    return [
        Measured(
            id="kernel-udp-userspace",
            unit="kpps",
            samples=kpps,
            baseline=BRIDGE,
            references={"veth": VETH},
        )
    ]
