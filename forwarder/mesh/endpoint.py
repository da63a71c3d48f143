"""An endpoint: the last server on a path. What a particular one does is in its extensions.

```python
addresses = assigns(PointToPointIpam([["172.16.0.0/16"]]))
endpoint = Endpoint(name="web", services=["web"], mechanisms={"KERNEL": kernel_end(netns)}, extensions=[addresses])
async with endpoint, serve([network_service(endpoint), monitor_connection(endpoint)], ["unix:///web.sock"]):
    await forever
```

An extension is called once per connection with the connection as it will be answered, to read
and to fill in. It returns an async context manager that is entered then and left when the
connection ends; what it yields, if anything, is called with every repeated Request.

The steps of a Request are those every server of the mesh shares, in order: advance the path,
take the connection's turn, choose the mechanism, run the extensions, vouch for the own segment,
arm the expiry, tell the watchers, cut the path behind us.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from forwarder.api import constants
from forwarder.api.connection_pb2 import (
    Connection,
    ConnectionEvent,
    Mechanism,
    MonitorScopeSelector,
    PathSegment,
)
from forwarder.api.connectioncontext_pb2 import DNSConfig
from forwarder.api.mechanisms import Kernel
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.clock import Clock, SystemClock
from forwarder.connection import path as paths
from forwarder.connection.background import Background
from forwarder.connection.expiry import ExpiryTimer, close_at
from forwarder.connection.monitor import Monitor
from forwarder.connection.table import ConnectionTable, Entry
from forwarder.errors import InvalidRequest, MechanismUnsupported
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.netns import Netns
from forwarder.rpc import Call
from forwarder.security import (
    NetworkServiceInput,
    Policies,
    Token,
    TokenSource,
    UnsignedTokens,
    check_caller,
    received,
)

Refresh = Callable[[Connection], Awaitable[None] | None]
"""Called with each repeated Request's connection, to fill it in again."""
Extension = Callable[[Connection], AbstractAsyncContextManager[Refresh | None]]

TOKEN_LIFETIME_S = 600.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Held:
    """What an established connection keeps."""

    timer: ExpiryTimer
    caller: str = ""
    """SPIFFE ID of who asked; empty without TLS."""
    refreshes: list[Refresh] = field(default_factory=list)


class Endpoint:
    """Handles Request, Close and MonitorConnections; serve it with `rpc.serve`.

    An async context manager: leaving it closes every connection.
    """

    def __init__(
        self,
        *,
        name: str,
        services: Sequence[str],
        mechanisms: Mapping[str, Extension],
        extensions: Sequence[Extension] = (),
        payload: str = constants.ETHERNET,
        tokens: TokenSource | None = None,
        policies: Policies | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Takes the extension of each mechanism type that is served, called after all others.

        Without `tokens` the endpoint vouches for itself by unsigned ones, which only an insecure
        mesh takes; without `policies` everybody may call.
        """
        self.name = name
        self._services = frozenset(services)
        self._mechanisms = mechanisms
        self._extensions = extensions
        self._payload = payload
        self._clock = clock or SystemClock()
        self._tokens = tokens or unsigned_tokens(name, self._clock)
        self._policies = policies
        self._table: ConnectionTable[_Held] = ConnectionTable()
        self._monitor = Monitor()
        self._background = Background()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._table.close_all(self._closed)
        await self._background.aclose()

    def __len__(self) -> int:
        """Returns how many connections are established."""
        return len(self._table)

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        """Makes or refreshes a connection and returns it as the caller sees it.

        Raises InvalidRequest or MechanismUnsupported, NotAuthorized or PolicyError if policies do not
        allow it, and what extensions raise; a connection that is new then leaves nothing behind.
        """
        connection = copy(request.connection)
        position = await self._admit(connection, call)
        seconds = call.remaining_s()

        async def work(entry: Entry[_Held]) -> Connection:
            return await self._establish(entry, connection, request, position, seconds or 0.0)

        async with self._table.turn(connection.id, caller_id=position.caller_id) as entry:
            if entry.held is not None:
                check_caller(entry.held.caller, call.tls_peer)
            made = await self._table.request_entry(entry, connection, work, seconds=seconds)
            assert entry.held is not None
            entry.held.caller = call.tls_peer.identity if call.tls_peer is not None else ""
        self._monitor.update(made)
        answer = copy(made)
        paths.to_caller(answer, position)
        return answer

    async def close(self, connection: Connection, call: Call) -> None:
        """Ends a connection; an unknown one is fine.

        Raises NotAuthorized or PolicyError if policies do not allow it.
        """
        theirs = copy(connection)
        await self._admit(theirs, call)
        async with self._table.turn(theirs.id) as entry:
            if entry.held is not None:
                check_caller(entry.held.caller, call.tls_peer)
            await self._table.close_entry(entry, self._closed)

    async def monitor(self, selector: MonitorScopeSelector, call: Call) -> AsyncGenerator[ConnectionEvent, None]:
        """Yields what happens to the connections within `selector`."""
        del call
        async with aclosing(self._monitor.watch(selector)) as events:
            async for event in events:
                yield event

    async def _admit(self, connection: Connection, call: Call) -> paths.Position:
        """Finds our place in the path, writes the caller's token and ours into it, and asks the policies."""
        position = paths.advance(connection, self.name, self._table.id_for)
        segments = connection.path.path_segments
        if (theirs := received(call.metadata)) is not None and position.caller_index != position.own_index:
            vouch(segments[position.caller_index], theirs)
        vouch(segments[position.own_index], self._tokens.token(call.tls_peer))
        if self._policies and (call.peer or call.tls_peer is not None):
            await self._policies.check(NetworkServiceInput.of_call(connection.path, position.own_index, call.tls_peer))
        return position

    async def _establish(
        self,
        entry: Entry[_Held],
        connection: Connection,
        request: NetworkServiceRequest,
        position: paths.Position,
        seconds: float,
    ) -> Connection:
        if connection.network_service not in self._services:
            raise InvalidRequest(
                f"endpoint {self.name} does not serve {connection.network_service!r}",
                hint=f"it serves {', '.join(sorted(self._services))}",
            )
        if connection.payload and connection.payload != self._payload:
            raise InvalidRequest(f"endpoint {self.name} serves payload {self._payload}, not {connection.payload!r}")
        connection.payload = self._payload
        connection.network_service_endpoint_name = self.name
        self._choose_mechanism(connection, request.mechanism_preferences)
        known = entry.connection
        if known is not None and known.mechanism.type != connection.mechanism.type:
            await entry.close()
        expires = close_at(connection, position, seconds)
        if entry.held is None:
            await self._enter(entry, connection)
        else:
            for refresh in entry.held.refreshes:
                if (waiting := refresh(connection)) is not None:
                    await waiting
        assert entry.held is not None
        paths.trim(connection)
        entry.held.timer.arm(expires)
        return connection

    async def _enter(self, entry: Entry[_Held], connection: Connection) -> None:
        """Runs the extensions for a new connection, keeping them on its stack."""

        async def close_if_due() -> None:
            async with self._table.turn(entry.id) as now:
                if now.held is held and held.timer.due:
                    _log.info("the caller did not refresh in time")
                    await self._table.close_entry(now, self._closed)

        def expired() -> None:
            self._background.start(close_if_due(), f"expiry of {entry.id}")

        held = _Held(timer=ExpiryTimer(self._clock, expired))
        entry.stack.push_async_callback(held.timer.aclose)
        for extension in (*self._extensions, self._mechanisms[connection.mechanism.type]):
            refresh = await entry.stack.enter_async_context(extension(connection))
            if refresh is not None:
                held.refreshes.append(refresh)
        entry.held = held

    def _choose_mechanism(self, connection: Connection, preferences: Sequence[Mechanism]) -> None:
        if connection.HasField("mechanism") and connection.mechanism.type:
            wanted = [connection.mechanism.type]
        else:
            wanted = [preference.type for preference in preferences]
            chosen = next((each for each in preferences if each.type in self._mechanisms), None)
            if chosen is not None:
                connection.mechanism.CopyFrom(chosen)
        if connection.mechanism.type not in self._mechanisms:
            raise MechanismUnsupported(
                f"endpoint {self.name} cannot serve mechanism {', '.join(wanted) or '(none was offered)'}",
                hint=f"it serves {', '.join(self._mechanisms)}",
            )

    def _closed(self, connection: Connection) -> None:
        self._monitor.delete(connection.id)


def vouch(segment: PathSegment, token: Token) -> None:
    """Writes a token and its expiry into a path segment."""
    segment.token = token.text
    segment.expires.FromNanoseconds(token.expires)


def unsigned_tokens(name: str, clock: Clock, lifetime_s: float = TOKEN_LIFETIME_S) -> UnsignedTokens:
    """Returns the tokens of a member of an insecure mesh."""
    return UnsignedTokens(identity=f"spiffe://insecure/{name}", lifetime_s=lifetime_s, now=clock.now)


# Extensions -----------------------------------------------------------------------------------


def assigns(ipam: PointToPointIpam) -> Extension:
    """Gives each connection its addresses, and takes them back."""

    @asynccontextmanager
    async def addresses(connection: Connection) -> AsyncGenerator[Refresh, None]:
        connection_id = connection.id
        ipam.assign(connection_id, connection.context.ip_context)
        try:
            yield lambda again: ipam.assign(connection_id, again.context.ip_context)
        finally:
            ipam.release(connection_id)

    return addresses


def tells_dns(configs: Sequence[DNSConfig]) -> Extension:
    """Adds DNS servers to each connection's context, those that are not there yet."""

    def add(connection: Connection) -> None:
        present = connection.context.dns_context.configs
        present.extend(config for config in configs if config not in present)

    @asynccontextmanager
    async def dns(connection: Connection) -> AsyncGenerator[Refresh, None]:
        add(connection)
        yield add

    return dns


def kernel_end(netns: Netns) -> Extension:
    """Asks the forwarder for an interface in `netns`, with a name of ours unless it chose one."""
    url = f"file:///proc/self/fd/{netns.fileno()}"

    @asynccontextmanager
    async def kernel(connection: Connection) -> AsyncGenerator[Refresh, None]:
        name = Kernel(connection.mechanism).name or interface_name(connection.network_service)

        def fill_in(again: Connection) -> None:
            view = Kernel(again.mechanism)
            view.inode_url = url
            view.name = name

        fill_in(connection)
        yield fill_in

    return kernel


def interface_name(prefix: str) -> str:
    """Returns a random interface name that begins like `prefix` and has 15 characters at most."""
    letters = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in prefix)
    return f"{letters[:8]}-{secrets.token_hex(3)}"


async def forever() -> None:
    """Waits until cancelled."""
    await asyncio.Event().wait()
