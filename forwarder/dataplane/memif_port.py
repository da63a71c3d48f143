"""Opening memif ports, and what becomes of the shared memory of each of their connections."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from forwarder.dataplane.file_watch import FileWatch
from forwarder.dataplane.memif import MemifPort, MemifSession
from forwarder.dataplane.memif_control import Memory
from forwarder.dataplane.memif_link import MemifLink
from forwarder.dataplane.memif_listener import MemifListeners
from forwarder.dataplane.memif_memory import Layout, check_event_fd, check_region_fd, close_regions, create_memory
from forwarder.dataplane.port import Port
from forwarder.dataplane.spec import MemifPortSpec, Mode, Role

Settle = Callable[[Port, int], Awaitable[None]]
"""Waits until the worker that runs a port has adopted a generation of its plan."""


class ConnectedMemifPort(MemifPort):
    """A memif port and the link that keeps it connected."""

    link: MemifLink

    async def wait_connected(self) -> None:
        """Waits until frames can pass."""
        await self.link.wait_connected()


class SharedMemory:
    """The memory of one port's connections, one after the other; what `memif_link.MemifMemory` asks for."""

    def __init__(self, spec: MemifPortSpec, port: MemifPort, settle: Settle) -> None:
        self._spec = spec
        self._port = port
        self._settle = settle
        self._layout = Layout(log2_ring_size=spec.log2_ring_size, buffer_bytes=spec.buffer_bytes)
        self._memory: Memory | None = None

    def check_region(self, fd: int, size: int) -> None:
        """Raises RemoteProtocolError unless `fd` may be mapped as a region of `size` bytes."""
        check_region_fd(fd, size, allow_unsealed=self._spec.allow_unsealed)

    def check_ring(self, fd: int) -> None:
        """Raises RemoteProtocolError unless `fd` is an eventfd."""
        check_event_fd(fd)

    def allocate(self, *, to_server_rings: int, to_client_rings: int, log2_ring_size: int) -> Memory:
        """Makes the memory of a new connection, one ring each way; the caller owns the descriptors."""
        assert to_server_rings == to_client_rings == 1
        self._layout = Layout(log2_ring_size=log2_ring_size, buffer_bytes=self._spec.buffer_bytes)
        return create_memory(self._layout)

    def attach(self, memory: Memory) -> None:
        """Maps `memory` and lets frames pass; owns its descriptors from here on, also when it fails."""
        rings = {ring.to_server: (ring.region, ring.offset, ring.log2_ring_size, ring.fd) for ring in memory.rings}
        try:
            session = MemifSession(
                server=self._spec.role is Role.SERVER,
                regions=[(region.fd, region.size) for region in memory.regions],
                to_server=rings[True],
                to_client=rings[False],
                frame_bytes_max=self._spec.max_frame_bytes,
                buffer_bytes=self._layout.buffer_bytes,
                to_server_buffers=self._layout.to_server_buffers,
                to_client_buffers=self._layout.to_client_buffers,
            )
        except BaseException:
            memory.close()
            raise
        self._memory = close_regions(memory)
        self._port.attach(session)

    async def detach(self) -> None:
        """Stops frames; unmaps and closes once no worker looks at the memory any more."""
        session, generation = self._port.detach()
        try:
            if generation is not None:
                await self._settle(self._port, generation)
            if session is not None:
                self._port.count_missed(session)
        finally:
            if session is not None:
                session.close()
            if self._memory is not None:
                memory, self._memory = self._memory, None
                memory.close()


@asynccontextmanager
async def open_memif_port(
    spec: MemifPortSpec, listeners: MemifListeners, settle: Settle, *, files: FileWatch | None = None
) -> AsyncIterator[ConnectedMemifPort]:
    """Opens a memif port for as long as the context lasts; does not wait for the peer.

    A peer that breaks the protocol in its memory is disconnected; the port waits for the next.
    Raises DataplaneError when the address cannot be used.
    """
    port = ConnectedMemifPort(
        name=f"{spec.address}#{spec.interface_id}", server=spec.role is Role.SERVER, ip_mode=spec.mode is Mode.IP
    )
    link = MemifLink(spec, SharedMemory(spec, port, settle), listeners=listeners, files=files)
    port.link = link
    port.on_fault = link.disconnect
    try:
        await link.start()
        yield port
    finally:
        port.on_fault = None
        try:
            await link.close()
        finally:  # a cancellation comes after the link has closed
            port.close()
