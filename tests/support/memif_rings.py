"""The two ends of one memif memory in one process, without a control channel."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from forwarder.dataplane import PortIO
from forwarder.dataplane.memif import MemifPort, MemifSession
from forwarder.dataplane.memif_control import Memory
from forwarder.dataplane.memif_memory import Layout, create_memory
from tests.support.memif_peer import Ring


def session(memory: Memory, layout: Layout, *, server: bool, frame_bytes_max: int = 65550) -> MemifSession:
    """Maps `memory` as one of the two ends."""
    rings = {ring.to_server: (ring.region, ring.offset, ring.log2_ring_size, ring.fd) for ring in memory.rings}
    return MemifSession(
        server=server,
        regions=[(region.fd, region.size) for region in memory.regions],
        to_server=rings[True],
        to_client=rings[False],
        frame_bytes_max=frame_bytes_max,
        buffer_bytes=layout.buffer_bytes,
        to_server_buffers=layout.to_server_buffers,
        to_client_buffers=layout.to_client_buffers,
    )


@contextmanager
def opened(memory: Memory, layout: Layout, *, server: bool, ip_mode: bool = False) -> Iterator[PortIO]:
    """A port at one end of `memory`, driven from Python."""
    port = MemifPort(name="server" if server else "client", server=server, ip_mode=ip_mode)
    port.attach(session(memory, layout, server=server))
    with PortIO(port) as io:
        yield io
    port.close()


@contextmanager
def both_ends(log2: int, buffer_bytes: int = 2048) -> Iterator[tuple[PortIO, PortIO]]:
    """A server and a client port with a memory between them."""
    layout = Layout(log2_ring_size=log2, buffer_bytes=buffer_bytes)
    memory = create_memory(layout)
    try:
        with opened(memory, layout, server=False) as client, opened(memory, layout, server=True) as server:
            yield server, client
    finally:
        memory.close()


@dataclass(kw_only=True)
class Hostile:
    """One of our ports, and everything its peer can touch."""

    io: PortIO
    layout: Layout
    to_server: Ring
    to_client: Ring
    memory: mmap.mmap
    shared: Memory

    @property
    def drops(self) -> dict[str, int]:
        """What the port dropped of what it received."""
        return dict(self.io.statistics()[0].drops)


@contextmanager
def hostile(*, server: bool, log2: int = 8, buffer_bytes: int = 2048, seal: bool = True) -> Iterator[Hostile]:
    """One of our ports in the given role, against raw memory."""
    layout = Layout(log2_ring_size=log2, buffer_bytes=buffer_bytes)
    shared = create_memory(layout)
    if not seal:
        shared = _unsealed(shared)
    raw = mmap.mmap(shared.regions[0].fd, layout.size)
    to_server = Ring(raw, layout.to_server_ring, log2, shared.rings[0].fd)
    to_client = Ring(raw, layout.to_client_ring, log2, shared.rings[1].fd)
    try:
        with opened(shared, layout, server=server) as io:
            yield Hostile(io=io, layout=layout, to_server=to_server, to_client=to_client, memory=raw, shared=shared)
    finally:
        to_server.release()
        to_client.release()
        raw.close()
        shared.close()


def _unsealed(shared: Memory) -> Memory:
    """Puts a memfd that can be truncated in place of the sealed one."""
    region = shared.regions[0]
    fd = os.memfd_create("unsealed", os.MFD_CLOEXEC)
    os.ftruncate(fd, region.size)
    with mmap.mmap(region.fd, region.size) as was, mmap.mmap(fd, region.size) as now:
        now[:] = was[:]
    os.dup2(fd, region.fd, inheritable=False)
    os.close(fd)
    return shared
