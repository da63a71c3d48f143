"""MEMIF: shared memory between an application and us.

Towards the caller we listen, inside the caller's network namespace, on an abstract socket whose
name we choose and put into the answer; the application connects when it likes. Towards the next
hop we connect to the name the endpoint put into its answer, inside the namespace it names, and
keep trying. An `inodeURL` that is a socket file stands for that file instead, on either side.
Payload IP means packets that start at the IP header, anything else whole Ethernet frames.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol

from forwarder.api import connection_pb2, constants
from forwarder.api.context import Side
from forwarder.api.mechanisms import Memif
from forwarder.dataplane import Port
from forwarder.dataplane.spec import MemifPortSpec, Mode, Role
from forwarder.mechanisms import memif_place
from forwarder.mechanisms.memif_place import MemifEnd, Place


class MemifPorts(Protocol):
    """What this mechanism needs of the data plane."""

    def memif_port(self, spec: MemifPortSpec) -> AbstractAsyncContextManager[Port]:
        """Opens a memif port for as long as the context lasts."""
        ...


class MemifOpenPort(MemifEnd):
    """One open end: a port, and where its socket is."""

    def __init__(
        self, side: Side, connection: connection_pb2.Connection, place: Place, address: str, port: Port
    ) -> None:
        super().__init__(side, connection, place, address)
        self.port = port

    @property
    def fault(self) -> str:
        """Why the port is dead; empty while it is not."""
        return self.port.fault if self.port.dead else ""


class MemifMechanism:
    """Opens memif ports."""

    type = constants.MEMIF

    def __init__(
        self,
        dataplane: MemifPorts,
        *,
        directory: str = "",
        allow_unsealed: bool = False,
        log2_ring_size: int = 10,
        buffer_bytes: int = 2048,
    ) -> None:
        """`directory` starts the names of our sockets; TMPDIR, or /tmp, when empty.

        `allow_unsealed` lets peers share memory that they could truncate, as zero-copy DPDK and
        VPP do.
        """
        self._dataplane = dataplane
        self._directory = directory or memif_place.default_directory()
        self._allow_unsealed = allow_unsealed
        self._log2_ring_size = log2_ring_size
        self._buffer_bytes = buffer_bytes

    def preference(self, connection: connection_pb2.Connection) -> connection_pb2.Mechanism:
        """Returns MEMIF without parameters: the endpoint names the socket and its namespace."""
        return Memif.new().mechanism

    def check(self, mechanism: connection_pb2.Mechanism, side: Side) -> None:
        """Raises InvalidRequest when the namespace, or the endpoint's socket, is missing or malformed."""
        memif_place.check(mechanism, side)

    @asynccontextmanager
    async def open(self, side: Side, connection: connection_pb2.Connection) -> AsyncIterator[MemifOpenPort]:
        """Opens the port; it does not wait for the application.

        Raises InvalidRequest for a namespace that is not there, NetlinkError when it may not be
        entered, DataplaneError when the socket cannot be made.
        """
        self.check(connection.mechanism, side)
        view = Memif(connection.mechanism)
        async with AsyncExitStack() as stack:
            place = await Place.find(view.inode_url)
            stack.callback(place.close)
            if side is Side.CLIENT:

                async def listen(address: str) -> tuple[Port, str]:
                    return await self._port(stack, Role.SERVER, address, place, connection), address

                port, address = await place.listen(self._directory, connection.id, listen)
                place.tell(connection, address)
            else:
                address = place.target(view)
                port = await self._port(stack, Role.CLIENT, address, place, connection)
            yield MemifOpenPort(side, connection, place, address, port)

    async def _port(
        self, stack: AsyncExitStack, role: Role, address: str, place: Place, connection: connection_pb2.Connection
    ) -> Port:
        spec = MemifPortSpec(
            role=role,
            address=address,
            netns=place.descriptor,
            mode=Mode.IP if connection.payload == constants.IP else Mode.ETHERNET,
            allow_unsealed=self._allow_unsealed,
            log2_ring_size=self._log2_ring_size,
            buffer_bytes=self._buffer_bytes,
        )
        return await stack.enter_async_context(self._dataplane.memif_port(spec))
