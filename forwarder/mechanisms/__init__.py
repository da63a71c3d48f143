"""From a Connection and its mechanism's parameters to an open port, and back.

One file per mechanism. Here NSM words become kernel and dataplane words.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from forwarder.api import connection_pb2
from forwarder.api.context import Side as Side
from forwarder.dataplane import Port


class OpenPort(Protocol):
    """One end of a vWire, ready to be wired."""

    port: Port
    interface: str
    """`<TYPE>/<name>`, for the path metrics client_interface and server_interface."""

    def serves(self, connection: connection_pb2.Connection) -> bool:
        """Says whether this open port still fits `connection`, whose `mechanism` is this side's.

        False when parameters changed so that another port has to be opened.
        """
        ...

    async def update(self, connection: connection_pb2.Connection) -> None:
        """Applies the connection's context (addresses, routes, neighbours, MTU, policies).

        Idempotent: what is already so is not touched; what is no longer wanted is removed
        after the new has been added. Does nothing for mechanisms without an interface.
        """
        ...


class Mechanism(Protocol):
    """One mechanism type."""

    type: str
    """As in the API: "KERNEL", "MEMIF"."""

    def preference(self, connection: connection_pb2.Connection) -> connection_pb2.Mechanism:
        """Returns what a forwarder offers to its next hop."""
        ...

    def check(self, mechanism: connection_pb2.Mechanism, side: Side) -> None:
        """Raises InvalidRequest when a parameter that `side` needs is missing or wrong."""
        ...

    def open(self, side: Side, connection: connection_pb2.Connection) -> AbstractAsyncContextManager[OpenPort]:
        """Opens this side's port for as long as the context lasts.

        `connection.mechanism` is this side's mechanism; parameters that we choose (the memif
        socket's name) are written into it. Undoes everything on leaving.
        Raises InvalidRequest, DataplaneError or NetlinkError; then nothing is left behind.
        """
        ...


Mechanisms = Mapping[str, Mechanism]
