"""The forwarder as its callers see it: Request, Close and MonitorConnections."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from time import monotonic
from typing import Self

from forwarder.api import constants
from forwarder.api.connection_pb2 import (
    DOWN,
    RESELECT_REQUESTED,
    UP,
    Connection,
    ConnectionEvent,
    MonitorScopeSelector,
    State,
)
from forwarder.api.context import Side
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy, names, origin_id
from forwarder.clock import Clock, SystemClock
from forwarder.connection import path as paths
from forwarder.connection.background import Background
from forwarder.connection.monitor import Monitor
from forwarder.connection.table import ConnectionTable, Entry
from forwarder.errors import EndpointNotFound, NextHopError
from forwarder.mechanisms import Datapath, Mechanisms
from forwarder.mechanisms.userspace import Userspace, Vwires
from forwarder.netns import NetnsWatch
from forwarder.rpc import Call, Channels, Service, monitor_connection, network_service
from forwarder.security import TokenMetadata, TokenSource, UnsignedTokens
from forwarder.service import tokens as path_tokens
from forwarder.service.access import Access
from forwarder.service.datapaths import Datapaths, Wanted
from forwarder.service.held import Held
from forwarder.service.next_hops import Dial, NextHops, dialler
from forwarder.service.parts import Parts
from forwarder.service.request import Events, admit, forget_endpoint, serve_request
from forwarder.service.statistics import ConnectionStatus, ForwarderStatistics
from forwarder.service.watch import Watches

TOKEN_LIFETIME_S = 600.0

_log = logging.getLogger(__name__)


class Forwarder:
    """Handles the forwarder's RPCs. An async context manager: leaving it closes every connection."""

    def __init__(
        self,
        *,
        name: str,
        mechanisms: Mechanisms,
        vwires: Vwires,
        next_hops: NextHops,
        tokens: TokenSource | None = None,
        access: Access | None = None,
        dial: Dial | None = None,
        channels: Channels | None = None,
        clock: Clock | None = None,
        mechanism_priority: Sequence[str] = (),
        default_payload: str = constants.IP,
        direct: Sequence[Datapath] = (),
        datapath: Wanted = Wanted.AUTO,
        keep: Callable[[], None] | None = None,
    ) -> None:
        """Serves as `name` on the path, joining the ports of `mechanisms` by `vwires`, the data plane.

        `direct` are the datapaths that do without it, best first; `datapath` says which of all
        these a vWire gets that does not ask for one.
        Without `tokens`, unsigned ones are made; without `access`, everybody may do everything.
        Next hops are reached by gRPC over `channels`, or over some of its own, unless `dial` does it
        another way.
        `default_payload` is for connections that neither the Request nor the finder of the next hop
        gives one; registries take a network service without payload to be IP.
        With `keep`, vWires are left to a successor at the end: it is called before they are closed, and
        has to see to it that what they have in the kernel stays.
        """
        self._keep = keep
        clock = clock or SystemClock()
        tokens = tokens or UnsignedTokens(identity=f"spiffe://vwire/{name}", lifetime_s=TOKEN_LIFETIME_S, now=clock.now)
        self._table: ConnectionTable[Held] = ConnectionTable()
        self._monitor = Monitor()
        self._background = Background()
        self._own = AsyncExitStack()
        if channels is None:
            channels = Channels(credentials=TokenMetadata(tokens))
            self._own.push_async_callback(channels.aclose)
        self._namespaces = NetnsWatch()
        self._parts = Parts(
            name=name,
            mechanisms=mechanisms,
            datapaths=Datapaths(mechanisms=mechanisms, userspace=Userspace(mechanisms, vwires), direct=direct),
            datapath=datapath,
            next_hops=next_hops,
            dial=dial or dialler(channels),
            kept=channels.kept,
            tokens=tokens,
            access=Access() if access is None else access,
            clock=clock,
            namespaces=self._namespaces,
            priority=tuple(each.upper() for each in mechanism_priority),
            default_payload=default_payload,
        )
        self._watches = Watches(
            name, table=self._table, monitor=self._monitor, dial=self._parts.dial,
            background=self._background, down=self._down,
        )  # fmt: skip
        self._events = Events(expired=self._expired, broken=self._broken, abandoned=self._abandoned)
        self._requests = 0
        self._failed = 0
        self._closes = 0
        self._expiries = 0
        self._pods_gone = 0
        self._went_down = 0

    async def __aenter__(self) -> Self:
        """Starts nothing: connections come with Requests."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes every connection, here and at its next hop, or leaves them to a successor, and ends every task."""
        if self._keep is not None:
            self._leave_to_successor(self._keep)
            await self._table.close_all()
        else:
            await self._table.close_all(self._closed)
        await self._background.aclose()
        await self._namespaces.aclose()
        await self._own.aclose()

    def _leave_to_successor(self, keep: Callable[[], None]) -> None:
        """Sees to it that closing tells nobody and takes nothing away: those who watch us hear that we have gone."""
        keep()
        left = 0
        for entry in self._table.established():
            if entry.held is not None:
                entry.held.downstream = None
                left += 1
        if left:
            _log.info("left to the next forwarder: %d vWires", left)

    def services(self) -> list[Service]:
        """Returns what to give `rpc.serve`."""
        return [network_service(self), monitor_connection(self)]

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        """Makes or refreshes a vWire and returns its connection as the caller sees it.

        Raises InvalidRequest, MechanismUnsupported or EndpointNotFound for what the caller asked,
        NextHopError and RemoteProtocolError for what the next hop did, DataplaneError and NetlinkError
        for what the machine refused. A first Request that fails leaves nothing behind, here or at the
        next hop; a later one leaves the vWire as it was.
        """
        request = copy(request)
        position = paths.advance(request.connection, self._parts.name, self._table.id_for)
        caller_id = position.caller_id if position.caller_index != position.own_index else ""

        async def work(entry: Entry[Held]) -> Connection:
            try:
                if reselect and entry.held is not None:
                    self._down(entry, "the caller asks for another endpoint")
                    self._watches.leave(entry.id, entry.held)
                    await forget_endpoint(self._parts, entry)
                return await serve_request(self._parts, entry, request, position, call, self._events)
            except (NextHopError, EndpointNotFound) as error:
                if entry.established:
                    self._down(entry, f"a refresh failed: {error}")
                raise

        async with self._table.turn(request.connection.id, caller_id=caller_id) as entry:
            with self._logged(entry, request.connection):
                await admit(self._parts, entry, request.connection, position, call)
                reselect = request.connection.state == RESELECT_REQUESTED
                if reselect and entry.held is not None and entry.held.wiring.keeps_client:
                    request.connection.state = UP  # what the caller has need not be closed
                answer = await self._table.request_entry(
                    entry, request.connection, work, seconds=call.remaining_s(), closed=self._closed
                )
            self._parts.access.established(position, call)
            self._monitor.update(answer)
            self._watches.follow(entry)
        answer = copy(answer)
        paths.to_caller(answer, position)
        return answer

    async def close(self, connection: Connection, call: Call) -> None:
        """Closes a vWire, here and at its next hop; an unknown one is fine.

        Raises NotAuthorized, and what undoing a part raised, after every part was tried.
        """
        connection = copy(connection)
        position = paths.advance(connection, self._parts.name, self._table.id_for)
        self._closes += 1
        async with self._table.turn(position.own_id) as entry:
            if entry.connection is None or entry.held is None:
                return
            # What was established counts, not what the caller says of it.
            closing = copy(entry.connection)
            index = closing.path.index
            path_tokens.put(closing, index, call.metadata, self._parts.tokens, call.tls_peer)
            await self._parts.access.check(closing, index, call, known=entry.connection)
            entry.held.vouched_by(closing.path.path_segments[: index + 1])
            await self._table.close_entry(entry, self._closed)

    def monitor(self, selector: MonitorScopeSelector, call: Call) -> AsyncGenerator[ConnectionEvent, None]:
        """Yields the state of the connections within `selector`, then each change. Raises NotAuthorized."""
        return self._watched(selector, call)

    async def _watched(self, selector: MonitorScopeSelector, call: Call) -> AsyncGenerator[ConnectionEvent, None]:
        await self._parts.access.check_monitor(selector, call)
        async with aclosing(self._monitor.watch(selector)) as events:
            async for event in events:
                yield event

    def statistics(self) -> ForwarderStatistics:
        """Returns what there is and what was done."""
        return ForwarderStatistics(
            connections=tuple(
                self._status(entry.held, entry.connection)
                for entry in self._table.established()
                if entry.held is not None and entry.connection is not None
            ),
            requests=self._requests,
            failed_requests=self._failed,
            closes=self._closes,
            expired=self._expiries,
            pods_gone=self._pods_gone,
            went_down=self._went_down,
            watchers=self._monitor.watchers,
        )

    def _status(self, held: Held, connection: Connection) -> ConnectionStatus:
        return ConnectionStatus(
            connection_id=connection.id,
            origin_id=origin_id(connection),
            client=names(connection.path)[0],
            network_service=connection.network_service,
            endpoint=connection.network_service_endpoint_name,
            payload=connection.payload,
            state=State.Name(connection.state),
            client_interface=held.wiring.interface(Side.CLIENT),
            endpoint_interface=held.wiring.interface(Side.ENDPOINT),
            established_at=held.established_at,
            expires_at=held.expiry.at,
            datapath=held.wiring.datapath,
            datapath_reason=held.wiring.reason,
            vwire=held.wiring.statistics(),
        )

    @contextmanager
    def _logged(self, entry: Entry[Held], connection: Connection) -> Iterator[None]:
        """Writes a line when a Request starts and one when it ends, and counts it."""
        kind = "refresh" if entry.established else "Request"
        _log.info(
            "%s for %s from %s", kind, connection.network_service or "no network service", names(connection.path)[0]
        )
        start = monotonic()
        try:
            yield
        except BaseException as error:
            self._failed += 1
            outcome = "cancelled" if isinstance(error, asyncio.CancelledError) else f"failed: {error}"
            _log.warning("%s %s after %.1f ms", kind, outcome, (monotonic() - start) * 1e3)
            raise
        self._requests += 1
        _log.info("%s done in %.1f ms", kind, (monotonic() - start) * 1e3)

    def _expired(self, entry: Entry[Held]) -> None:
        self._background.start(self._close_if_due(entry), f"expiry of {entry.id}")

    async def _close_if_due(self, entry: Entry[Held]) -> None:
        async with self._table.turn(entry.id) as now:
            if now is entry and now.held is not None and now.held.expiry.due:
                _log.warning("closing: the caller did not refresh in time")
                self._expiries += 1
                await self._table.close_entry(now, self._closed)

    def _abandoned(self, entry: Entry[Held], url: str) -> None:
        self._background.start(self._close_if_abandoned(entry), f"end of {url}")

    async def _close_if_abandoned(self, entry: Entry[Held]) -> None:
        async with self._table.turn(entry.id) as now:
            if now is not entry or now.held is None or not now.held.pods.gone:
                return
            if now.held.wiring.outlives(now.held.pods.gone):
                self._down(now, f"nobody is left in the network namespace {now.held.pods.gone}")
            else:
                _log.warning("closing: nobody is left in the network namespace %s", now.held.pods.gone)
                self._pods_gone += 1
                await self._table.close_entry(now, self._closed)

    def _broken(self, entry: Entry[Held], why: str) -> None:
        self._background.start(self._down_in_turn(entry, why), f"fault of {entry.id}")

    async def _down_in_turn(self, entry: Entry[Held], why: str) -> None:
        async with self._table.turn(entry.id) as now:
            if now is entry and now.held is not None and now.held.wiring.fault:
                self._down(now, f"an end broke: {why}")

    def _down(self, entry: Entry[Held], why: str) -> None:
        """Makes the connection DOWN and tells watchers; the next successful Request makes it UP again."""
        if entry.connection is None or entry.connection.state == DOWN:
            return
        _log.warning("DOWN: %s", why)
        self._went_down += 1
        entry.connection.state = DOWN
        self._monitor.set_down(entry.id)

    def _closed(self, connection: Connection) -> None:
        _log.info("closed")
        self._parts.access.closed(connection.id)
        self._monitor.delete(connection.id)
