"""A manager that stands in for NSM's: the registry API from memory, and Requests passed to a registered forwarder."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty

from forwarder.api.connection_pb2 import Connection
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.api.registry_pb2 import (
    NetworkService,
    NetworkServiceEndpoint,
    NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse,
    NetworkServiceQuery,
    NetworkServiceResponse,
)
from forwarder.api.x509 import Identity, Peer
from forwarder.connection import path as paths
from forwarder.connection.table import ConnectionTable
from forwarder.rpc import Call, NextHop, Service, dial, network_service, registry_pb2_grpc, serve
from forwarder.rpc.services import Running
from forwarder.security import SvidTokens, TokenMetadata, TokenSource, UnsignedTokens
from forwarder.service import tokens as path_tokens
from tests.support.connections import timestamp

T = TypeVar("T", NetworkService, NetworkServiceEndpoint)

FORWARDER = "forwarder"


class Shelf:
    """What is registered under its name, and who watches."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self._watchers: set[asyncio.Queue[tuple[Any, bool]]] = set()

    def put(self, item: Any) -> None:
        self.items[item.name] = copy(item)
        self._tell(item, deleted=False)

    def remove(self, name: str) -> None:
        if (item := self.items.pop(name, None)) is not None:
            self._tell(item, deleted=True)

    @property
    def watched(self) -> int:
        return len(self._watchers)

    def _tell(self, item: Any, *, deleted: bool) -> None:
        for watcher in self._watchers:
            watcher.put_nowait((copy(item), deleted))

    async def find(self, matches: Any, *, watch: bool) -> AsyncGenerator[tuple[Any, bool], None]:
        queue: asyncio.Queue[tuple[Any, bool]] = asyncio.Queue()
        if watch:
            self._watchers.add(queue)
        try:
            for item in list(self.items.values()):
                if matches(item):
                    yield copy(item), False
            while watch:
                item, deleted = await queue.get()
                if matches(item):
                    yield item, deleted
        finally:
            self._watchers.discard(queue)


class Manager:
    """The state of a manager, which a restart loses."""

    def __init__(self, *, lifetime_s: float = 60.0, name: str = "nsmgr", identity: Identity | None = None) -> None:
        """With an identity it proves it, and its part of every path is signed."""
        self.name = name
        self.identity = identity
        self.tokens: TokenSource = (
            SvidTokens(identity, lifetime_s=60.0)
            if identity is not None
            else UnsignedTokens(identity=f"spiffe://test/{name}", lifetime_s=60.0)
        )
        self.lifetime_s = lifetime_s
        self.services = Shelf()
        self.endpoints = Shelf()
        self.registered: list[NetworkServiceEndpoint] = []
        self.unregistered: list[str] = []
        self.paths: list[str] = []
        self.finds: list[Any] = []
        self.requests: list[NetworkServiceRequest] = []
        self.answers: list[Connection] = []
        self.refuse: BaseException | None = None
        self._ids: ConnectionTable[None] = ConnectionTable()

    def services_to_serve(self) -> list[Service]:
        return [
            network_service(self),
            Service(
                name="registry.NetworkServiceRegistry",
                register=lambda server, _: registry_pb2_grpc.add_NetworkServiceRegistryServicer_to_server(
                    _Services(self), server
                ),
            ),
            Service(
                name="registry.NetworkServiceEndpointRegistry",
                register=lambda server, running: registry_pb2_grpc.add_NetworkServiceEndpointRegistryServicer_to_server(
                    _Endpoints(self, running), server
                ),
            ),
        ]

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        """Passes a Request to the first forwarder, as a hop of its own on the path."""
        request = copy(request)
        position = paths.advance(request.connection, self.name, self._ids.id_for)
        path_tokens.put(request.connection, position.own_index, call.metadata, self.tokens, call.tls_peer)
        self.requests.append(copy(request))
        async with self._forwarder() as forwarder:
            answer = await forwarder.request(request, timeout_s=call.remaining_s())
        self.answers.append(copy(answer))
        paths.to_own(answer, position)
        paths.to_caller(answer, position)
        return answer

    async def close(self, connection: Connection, call: Call) -> None:
        connection = copy(connection)
        position = paths.advance(connection, self.name, self._ids.id_for)
        path_tokens.put(connection, position.own_index, call.metadata, self.tokens, call.tls_peer)
        async with self._forwarder() as forwarder:
            await forwarder.close(connection, timeout_s=call.remaining_s())

    @asynccontextmanager
    async def _forwarder(self) -> AsyncIterator[NextHop]:
        found = next(each for each in self.endpoints.items.values() if FORWARDER in each.network_service_names)
        async with dial(found.url, identity=self.identity, credentials=TokenMetadata(self.tokens)) as channel:
            yield NextHop(channel)

    def register(
        self, endpoint: NetworkServiceEndpoint, path: str, caller_token: str, caller: Peer | None
    ) -> tuple[NetworkServiceEndpoint, str]:
        if self.refuse is not None:
            raise self.refuse
        self.registered.append(copy(endpoint))
        self.paths.append(path)
        endpoint = copy(endpoint)
        endpoint.expiration_time.CopyFrom(timestamp(time.time() + self.lifetime_s))
        self.endpoints.put(endpoint)
        tokens = [caller_token, self.tokens.token(caller).text]
        return endpoint, json.dumps({"Index": 0, "PathSegments": [{"token": each} for each in tokens]})


def _metadata(context: Any, wanted: str) -> str:
    return str(next((value for key, value in context.invocation_metadata() if key == wanted), ""))


class _Services(registry_pb2_grpc.NetworkServiceRegistryServicer):
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    async def Register(self, request: NetworkService, context: Any) -> NetworkService:
        self._manager.services.put(request)
        return request

    async def Find(self, request: NetworkServiceQuery, context: Any) -> None:
        wanted = request.network_service
        self._manager.finds.append(copy(wanted))

        def matches(item: NetworkService) -> bool:
            return wanted.name in ("", item.name) and wanted.payload in ("", item.payload)

        async with aclosing(self._manager.services.find(matches, watch=request.watch)) as found:
            async for item, deleted in found:
                await context.write(NetworkServiceResponse(network_service=item, deleted=deleted))


class _Endpoints(registry_pb2_grpc.NetworkServiceEndpointRegistryServicer):
    def __init__(self, manager: Manager, running: Running) -> None:
        self._manager = manager
        self._running = running

    async def Register(self, request: NetworkServiceEndpoint, context: Any) -> NetworkServiceEndpoint:
        transport = self._running.front.transport(context.peer()) if self._running.front is not None else None
        caller = transport.peer if transport is not None else None
        answer, path = self._manager.register(
            request, _metadata(context, "path"), _metadata(context, "nsm-client-token"), caller
        )
        await context.send_initial_metadata((("path", path),))
        return answer

    async def Unregister(self, request: NetworkServiceEndpoint, context: Any) -> Empty:
        self._manager.unregistered.append(request.name)
        self._manager.endpoints.remove(request.name)
        return Empty()

    async def Find(self, request: NetworkServiceEndpointQuery, context: Any) -> None:
        wanted = request.network_service_endpoint
        self._manager.finds.append(copy(wanted))

        def matches(item: NetworkServiceEndpoint) -> bool:
            named = set(wanted.network_service_names) <= set(item.network_service_names)
            return wanted.name in ("", item.name) and named and wanted.url in item.url

        async with aclosing(self._manager.endpoints.find(matches, watch=request.watch)) as found:
            async for item, deleted in found:
                await context.write(NetworkServiceEndpointResponse(network_service_endpoint=item, deleted=deleted))


@asynccontextmanager
async def managed(url: str, manager: Manager) -> AsyncIterator[Manager]:
    """Serves a manager; leaving is its end."""
    async with serve(manager.services_to_serve(), [url], identity=manager.identity, drain_s=0.2):
        yield manager
