"""A next hop without a network: it agrees to everything unless told otherwise."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from forwarder.api.connection_pb2 import Connection, ConnectionEvent, MonitorScopeSelector
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.connection import path as paths
from forwarder.connection.monitor import Monitor
from forwarder.errors import NextHopError
from tests.support.connections import timestamp


class FakeNextHop:
    """An endpoint called `nse`; picks the first preference and gives it a name."""

    def __init__(self, expires: float = 1_800_000_600.0) -> None:
        self.requests: list[NetworkServiceRequest] = []
        self.closes: list[Connection] = []
        self.connections: dict[str, Connection] = {}
        self.by_caller: dict[str, str] = {}
        self.monitor_hub = Monitor()
        self.dialled: list[str] = []
        self.expires = expires
        self.interface = "nse-1"
        self.fail: Exception | None = None
        self.fail_dial: Exception | None = None
        self.fail_monitor: Exception | None = None
        self.remembers = True
        """False: it agrees, and then its monitor knows nothing of it."""
        self.broken = asyncio.Event()
        """Breaks every monitor stream when it is set."""
        self.go = asyncio.Event()
        self.go.set()
        self.change = lambda _answer: None
        """Changes the answer before it is given."""

    @asynccontextmanager
    async def dial(self, url: str) -> AsyncIterator["FakeNextHop"]:
        self.dialled.append(url)
        await asyncio.sleep(0)
        if self.fail_dial is not None:
            raise self.fail_dial
        yield self

    async def request(self, request: NetworkServiceRequest, *, timeout_s: float | None = None) -> Connection:
        self.requests.append(copy(request))
        connection = copy(request.connection)
        position = paths.advance(connection, "nse", lambda caller: self.by_caller.get(caller) or paths.new_id())
        await asyncio.sleep(0)
        if self.fail is not None:
            raise self.fail
        self.by_caller[position.caller_id] = position.own_id
        if not connection.HasField("mechanism"):
            connection.mechanism.CopyFrom(request.mechanism_preferences[0])
        connection.mechanism.parameters["name"] = self.interface
        connection.network_service_endpoint_name = "nse"
        own = connection.path.path_segments[position.own_index]
        own.expires.CopyFrom(timestamp(self.expires))
        paths.trim(connection)
        self.connections[position.own_id] = copy(connection)
        if self.remembers:
            self.monitor_hub.update(connection)
        await self.go.wait()
        paths.to_caller(connection, position)
        self.change(connection)
        return connection

    async def close(self, connection: Connection, *, timeout_s: float | None = None) -> None:
        self.closes.append(copy(connection))
        connection = copy(connection)
        position = paths.advance(connection, "nse", lambda caller: self.by_caller.get(caller) or paths.new_id())
        await asyncio.sleep(0)
        self.connections.pop(position.own_id, None)
        self.monitor_hub.delete(position.own_id)
        if self.fail is not None:
            raise self.fail

    @asynccontextmanager
    async def monitor(self, selector: MonitorScopeSelector) -> AsyncIterator[AsyncIterator[ConnectionEvent]]:
        if self.fail_monitor is not None:
            raise self.fail_monitor
        stream = self.monitor_hub.watch(selector)
        try:
            yield self._until_broken(stream)
        finally:
            await stream.aclose()

    async def _until_broken(self, stream: AsyncGenerator[ConnectionEvent, None]) -> AsyncIterator[ConnectionEvent]:
        breaking = asyncio.ensure_future(self.broken.wait())
        try:
            while True:
                event = asyncio.ensure_future(anext(stream))
                try:
                    await asyncio.wait([event, breaking], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not event.done():
                        event.cancel()
                        await asyncio.wait([event])
                if event.cancelled():
                    raise NextHopError("reset", status="UNAVAILABLE")
                yield event.result()
        finally:
            breaking.cancel()
