"""Which server comes next on a connection's path, and how it is called."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from forwarder.api.connection_pb2 import Connection, ConnectionEvent, MonitorScopeSelector
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.errors import EndpointNotFound
from forwarder.rpc import Channels, NextHop


def _nothing() -> None:
    """Ends nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server that may be a connection's next hop."""

    url: str
    """One server has the same URL for as long as anybody keeps it."""
    endpoint_name: str = ""
    """The endpoint's name, if whoever found it knows; empty leaves the Request's."""
    payload: str = ""
    """The network service's payload, if known."""
    keep: Callable[[], Callable[[], None]] = lambda: _nothing
    """Keeps the URL good when the context of `find` is over; returns what ends that."""

    def __str__(self) -> str:
        return self.endpoint_name or self.url


class NextHops(Protocol):
    """Finds next hops."""

    def find(self, connection: Connection) -> AbstractAsyncContextManager[Iterable[Target]]:
        """Gives the servers where a connection may go next, in the order in which they are to be tried.

        There is at least one, each comes once, and it counts as tried when it is taken.
        Raises EndpointNotFound when nobody serves the connection, NextHopError when that cannot be told.
        """
        ...


class NextServer(Protocol):
    """The next hop while it is dialled; `rpc.NextHop` is one."""

    async def request(self, request: NetworkServiceRequest, *, timeout_s: float | None = None) -> Connection:
        """Asks for a connection; raises NextHopError."""
        ...

    async def close(self, connection: Connection, *, timeout_s: float | None = None) -> None:
        """Closes a connection; raises NextHopError."""
        ...

    def monitor(self, selector: MonitorScopeSelector) -> AbstractAsyncContextManager[AsyncIterator[ConnectionEvent]]:
        """Opens a stream of events."""
        ...


Dial = Callable[[str], AbstractAsyncContextManager[NextServer]]
"""From a URL to the server there, for as long as the context lasts; raises NextHopError."""


class ConfiguredNextHops:
    """Next hops as the settings give them: one for each network service, or one for all."""

    def __init__(self, *, default: str = "", by_service: Mapping[str, str] | None = None) -> None:
        self._default = default
        self._by_service = dict(by_service or {})

    @asynccontextmanager
    async def find(self, connection: Connection) -> AsyncIterator[Iterable[Target]]:
        """Gives the URL configured for the connection's network service."""
        url = self._by_service.get(connection.network_service, self._default)
        if not url:
            known = ", ".join(sorted(self._by_service)) or "none"
            raise EndpointNotFound(
                f"no next hop is known for the network service {connection.network_service!r}",
                hint=f"next hops are configured for: {known}",
            )
        yield [Target(url=url)]


def dialler(channels: Channels) -> Dial:
    """Returns what calls next hops by gRPC, over `channels` that all connections share."""

    @asynccontextmanager
    async def dial_next(url: str) -> AsyncIterator[NextServer]:
        async with channels.lend(url) as channel:
            yield NextHop(channel)

    return dial_next
