"""KERNEL: a kernel interface in the pod's network namespace.

Parameters: `inodeURL`, the namespace; `name`, the interface. The client gives both in its
preference; an endpoint gives both in its answer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol, Self

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection
from forwarder.api.connection_pb2 import Mechanism as ApiMechanism
from forwarder.api.context import Side
from forwarder.api.mechanisms import Kernel
from forwarder.api.path import copy
from forwarder.dataplane import Port
from forwarder.dataplane.af_packet import AfPacketPort
from forwarder.dataplane.spec import KernelPortSpec, Mode
from forwarder.errors import InvalidRequest, MechanismUnsupported
from forwarder.mechanisms import inode_url
from forwarder.mechanisms.interface_context import interface_context, interface_name
from forwarder.mechanisms.kernel_interface import KernelInterface, Tools
from forwarder.mechanisms.owner import Owner
from forwarder.netns import run_in

_MOST_AT_ONCE: Final = 2
"""Interfaces being made at a time.

The kernel changes links one by one, and who waits for that spins: with sixteen at a time each took
twice the processor time, and none was done sooner.
"""


class KernelPorts(Protocol):
    """What this mechanism needs of the data plane."""

    def kernel_port(self, spec: KernelPortSpec) -> AbstractAsyncContextManager[Port]:
        """Opens a port over a link of ours for as long as the context lasts."""
        ...


class KernelOpenPort:
    """A kernel interface and the port over our end of it."""

    def __init__(self, port: Port, interface: KernelInterface, side: Side, connection: Connection) -> None:
        self.port = port
        self.interface = f"{constants.KERNEL}/{interface.wanted.name}"
        self._interface = interface
        self._side = side
        self._opened_with: Connection | None = copy(connection)

    @property
    def fault(self) -> str:
        """Why the port is dead; empty while it is not."""
        return self.port.fault if self.port.dead else ""

    def serves(self, connection: Connection) -> bool:
        """Says whether namespace, name, payload, mark and hardware address are still what they were."""
        return serves(self._interface, self._side, connection)

    async def update(self, connection: Connection) -> None:
        """Compares the interface with the connection's context and applies the difference.

        Raises InvalidRequest for a malformed context, NetlinkError when the kernel refuses or
        the interface has gone.
        """
        opened_with, self._opened_with = self._opened_with, None
        if connection == opened_with:
            return  # a moment ago
        wanted = interface_context(connection, self._side)
        await run_in(None, lambda: self._interface.update(wanted))
        if wanted.managed and isinstance(self.port, AfPacketPort):
            self.port.set_mtu(wanted.mtu_bytes)


def serves(interface: KernelInterface, side: Side, connection: Connection) -> bool:
    """Says whether an interface is still the one that `side` of a connection asks for."""
    if connection.mechanism.type != constants.KERNEL:
        return False
    try:
        wanted = interface_context(connection, side)
    except InvalidRequest:
        return False
    have = interface.wanted
    return (
        (wanted.name, wanted.ip_mode, wanted.alias, wanted.managed)
        == (have.name, have.ip_mode, have.alias, have.managed)
        and wanted.mac in (b"", interface.their_mac)
        and inode_url.means(wanted.inode_url, interface.netns)
    )


class KernelMechanism:
    """Opens kernel interfaces. One per forwarder; close it after the last."""

    type = constants.KERNEL

    def __init__(self, dataplane: KernelPorts, owner: Owner | None = None) -> None:
        """`owner` marks what is made; it stays the caller's."""
        self._dataplane = dataplane
        self.tools = Tools(owner=owner or Owner())
        self.room = asyncio.Semaphore(_MOST_AT_ONCE)
        """To be held while links are made."""

    def preference(self, connection: Connection) -> ApiMechanism:
        """Returns an offer without parameters: the endpoint names its interface and its namespace."""
        return ApiMechanism(cls=constants.LOCAL, type=constants.KERNEL)

    def check(self, mechanism: ApiMechanism, side: Side) -> None:
        """Raises InvalidRequest when the name or the namespace is missing or malformed.

        Raises MechanismUnsupported for address translation rules, which are not carried out here.
        """
        parameters = Kernel.of(mechanism)
        if parameters is None:
            raise InvalidRequest(f"mechanism {mechanism.type!r} is not {constants.KERNEL}")
        interface_name(parameters)
        if not parameters.inode_url:
            whose = "the client's preference" if side is Side.CLIENT else "the endpoint's answer"
            raise InvalidRequest(f"mechanism {constants.KERNEL}: {whose} has no inodeURL")
        inode_url.parse(parameters.inode_url)
        if side is Side.ENDPOINT and parameters.iptables_nat_template:
            raise MechanismUnsupported(
                f"mechanism {constants.KERNEL}: IPTables4NatTemplate cannot be served",
                detail="this forwarder runs no iptables",
            )

    @asynccontextmanager
    async def open(self, side: Side, connection: Connection) -> AsyncIterator[KernelOpenPort]:
        """Makes the interface, with its context, and a port over our end of it.

        Undoes both on leaving, whatever the reason; when the pod has gone meanwhile that is quiet.
        Raises InvalidRequest, NetlinkError or DataplaneError.
        """
        async with self.interface(side, connection) as interface:
            if interface.adopted:
                await run_in(None, interface.drop_arriving)
            spec = KernelPortSpec(
                name=interface.our_name,
                ifindex=interface.our_index,
                mode=Mode.IP if interface.wanted.ip_mode else Mode.ETHERNET,
                mtu_bytes=interface.wanted.mtu_bytes,
                mac=interface.our_mac,
                peer_mac=interface.their_mac,
            )
            async with self._dataplane.kernel_port(spec) as port:
                yield KernelOpenPort(port, interface, side, connection)

    @asynccontextmanager
    async def interface(self, side: Side, connection: Connection) -> AsyncIterator[KernelInterface]:
        """Makes the interface with its context, or takes over the one that an earlier process left."""
        self.check(connection.mechanism, side)
        interface = KernelInterface(interface_context(connection, side), connection.network_service, self.tools)
        try:
            async with self.room:
                await run_in(None, interface.create)
            yield interface
        finally:
            # a thread of its own: neither a second cancellation nor an ended deadline stops it
            await run_in(None, interface.remove)

    def keep(self) -> None:
        """Leaves what is closed from now on in place: this process ends, and the next one takes it over."""
        self.tools.keeping.set()

    def close(self) -> None:
        """Gives the filter's descriptor back."""
        self.tools.drop_filter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
