"""What the datapaths have in common in which the kernel by itself joins two kernel interfaces."""

from typing import Generic, Self, TypeVar

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.api.path import copy
from forwarder.mechanisms import Broken
from forwarder.mechanisms.interface_context import interface_context
from forwarder.mechanisms.kernel import KernelMechanism, serves
from forwarder.mechanisms.kernel_interface import KernelInterface
from forwarder.netlink.remote_links import RemoteLinks
from forwarder.netns import run_in

Pair = TypeVar("Pair", bound=KernelInterface)


class KernelEnd(Generic[Pair]):
    """An interface in a pod, from what it is to be to what there is of it while it is joined."""

    def __init__(self, side: Side, connection: Connection, pair: Pair) -> None:
        self.interface = f"{constants.KERNEL}/{pair.wanted.name}"
        self.fault = ""
        self.pair = pair
        self._side = side
        self._opened_with: Connection | None = copy(connection)

    def gone(self, broken: Broken, why: str) -> None:
        """Notes that the interface is not there any more, and tells."""
        self.fault = why
        broken(f"{self.interface}: {why}")

    def serves(self, connection: Connection) -> bool:
        """Says whether namespace, name, payload, mark and hardware address are still what they were."""
        return serves(self.pair, self._side, connection)

    async def update(self, connection: Connection) -> None:
        """Compares the interface with the connection's context and applies the difference."""
        opened_with, self._opened_with = self._opened_with, None
        if connection == opened_with:
            return  # a moment ago
        wanted = interface_context(connection, self._side)
        await run_in(None, lambda: self.pair.update(wanted))


class KernelDatapath:
    """Joins KERNEL to KERNEL on one node. One per forwarder; close it after the last."""

    def __init__(self, kernel: KernelMechanism) -> None:
        """Shares what `kernel` shares among its interfaces."""
        self._kernel = kernel
        self._links = RemoteLinks()

    def carries(self, client: str, endpoint: str) -> bool:
        """Says whether both are KERNEL."""
        return client == endpoint == constants.KERNEL

    def close(self) -> None:
        """Closes its sockets."""
        self._links.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
