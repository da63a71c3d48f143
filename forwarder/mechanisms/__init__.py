"""From a Connection and its mechanisms' parameters to a vWire, and back.

One file per mechanism: it opens a port. One file per datapath: it makes the ends of a vWire and
joins them, by ports that our workers run, or without us. Here NSM words become kernel and
dataplane words.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from forwarder.api import connection_pb2
from forwarder.api.context import Side as Side
from forwarder.dataplane import Port
from forwarder.dataplane.statistics import VwireStatistics


class OpenEnd(Protocol):
    """One side of a vWire, ready to be joined to the other."""

    interface: str
    """`<TYPE>/<name>`, for the path metrics client_interface and server_interface."""

    @property
    def fault(self) -> str:
        """What broke it for good, so that another one has to be opened; empty while all is well."""
        ...

    def serves(self, connection: connection_pb2.Connection) -> bool:
        """Says whether this end still fits `connection`, whose `mechanism` is this side's.

        False when parameters changed so that another one has to be opened.
        """
        ...

    async def update(self, connection: connection_pb2.Connection) -> None:
        """Applies the connection's context (addresses, routes, neighbours, MTU, policies).

        Idempotent: what is already so is not touched; what is no longer wanted is removed
        after the new has been added. Does nothing for mechanisms without an interface.
        """
        ...


class OpenPort(OpenEnd, Protocol):
    """An end that has a port."""

    port: Port


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


class Joint(Protocol):
    """What joins two ends: frames flow while it is there."""

    def statistics(self) -> VwireStatistics | None:
        """Returns what has flowed, `a` being the caller's end; None where nobody counts."""
        ...


Broken = Callable[[str], None]
"""Told when an end of a joint breaks: which, and why."""


class Datapath(Protocol):
    """One way to carry the frames of a vWire."""

    name: str
    """As logs and tables show it."""
    keeps_client: bool
    """The caller's end outlives the endpoint: it stays while that is gone or another one takes over."""

    def carries(self, client: str, endpoint: str) -> bool:
        """Says whether it can join these two mechanism types."""
        ...

    def open(self, side: Side, connection: connection_pb2.Connection) -> AbstractAsyncContextManager[OpenEnd]:
        """Opens one side's end; as `Mechanism.open`."""
        ...

    def join(self, client: Any, endpoint: Any, *, name: str, broken: Broken) -> AbstractAsyncContextManager[Joint]:
        """Joins two ends of its own for as long as the context lasts.

        Raises InvalidRequest, DataplaneError or NetlinkError; then they are not joined.
        """
        ...
