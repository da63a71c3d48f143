"""dpdk-testpmd, as a cross-connect in our place and as the applications at both ends."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.programs import installed

HUGE_PAGES = 128
NAME = "dpdk-testpmd io"
PROMPT = "testpmd>"


@contextmanager
def huge_pages(count: int = HUGE_PAGES) -> Iterator[bool]:
    """Reserves 2 MiB pages for testpmd, as its users do; gives back what was there before."""
    setting = Path("/proc/sys/vm/nr_hugepages")
    before = int(setting.read_text())
    try:
        if before < count:
            setting.write_text(str(count))
        granted = int(setting.read_text()) >= count
        print(f"testpmd has {'2 MiB' if granted else 'no huge'} pages", flush=True)
        yield granted
    finally:
        setting.write_text(str(before))


def environment(scratch: Path) -> dict[str, str]:
    """Returns its environment: what it keeps about itself goes into a folder that is taken away."""
    return os.environ | {"RUNTIME_DIRECTORY": str(scratch)}


def _command(name: str, cpu: int, role: str, sockets: Sequence[str], log2_ring: int, huge: bool) -> list[str]:
    memory = ["--in-memory", "-m", "128"] if huge else ["--no-huge", "-m", "128"]
    vdevs = [
        f"--vdev=net_memif{n},role={role},id=0,socket={socket},socket-abstract=no,rsize={log2_ring},bsize=2048"
        for n, socket in enumerate(sockets)
    ]
    lcores = f"--lcores=0@{cpu},1@{cpu}"
    return [
        installed("dpdk-testpmd", "dpdk-dev"),
        lcores,
        "--no-pci",
        "--no-telemetry",
        f"--file-prefix={name}-{os.getpid()}",
        *memory,
        *vdevs,
        "--",
        "--total-num-mbufs=16384",
        "--no-lsc-interrupt",
        "--disable-link-check",  # else it waits for its links before it starts
    ]


def cross_connect(sockets: Sequence[str], *, cpu: int, log2_ring: int, huge: bool) -> list[str]:
    """Returns the command line of a cross-connect between two memif servers."""
    return [*_command("middle", cpu, "server", sockets, log2_ring, huge), "--forward-mode=io"]


def ends(name: str, sockets: Sequence[str], *, cpu: int, log2_ring: int) -> list[str]:
    """Returns the command line of source and sink, both ways, as client of two memif servers.

    flowgen takes what arrives at one port and sends new frames of 64 bytes out of the other. It
    answers commands; its output needs `stdbuf`, or answers stay behind in a buffer.
    """
    command = _command(name, cpu, "client", sockets, log2_ring, huge=False)
    return ["stdbuf", "-oL", *command, "--forward-mode=flowgen", "-i"]


def received(told: str) -> int:
    """Returns the frames received on all ports, as `show port stats all` tells them."""
    return sum(int(number) for number in re.findall(r"RX-packets:\s+(\d+)", told))
