"""What a server offers: handlers are plain objects, the rest of a service is here."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from forwarder.api import connection_pb2, networkservice_pb2
from forwarder.api.connection_pb2 import Connection, ConnectionEvent, MonitorScopeSelector
from forwarder.api.mechanisms import View
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.rpc import connection_pb2_grpc, descriptors, networkservice_pb2_grpc, status
from forwarder.rpc.call import Call
from forwarder.rpc.descriptors import Descriptors, PassThrough
from forwarder.rpc.files import KeptFiles
from forwarder.rpc.front import Front
from forwarder.rpc.socket_files import SocketFiles

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class NetworkServiceHandler(Protocol):
    """Answers for connections.

    Its methods run in a task of their own, which is cancelled when the caller gives up, when its
    deadline passes and when the server stops. What they raise becomes the call's status.
    """

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        """Makes, changes or refreshes a connection."""
        ...

    async def close(self, connection: Connection, call: Call) -> None:
        """Ends a connection; one that is not known is no error."""
        ...


class MonitorHandler(Protocol):
    """Tells of connections and their changes."""

    def monitor(self, selector: MonitorScopeSelector, call: Call) -> AsyncGenerator[ConnectionEvent, None]:
        """Yields events until the caller leaves; the generator is closed then."""
        ...


@dataclass(slots=True)
class Running:
    """The RPCs that a server is answering, and what came with them."""

    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    unary: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no unary RPC runs."""
    front: Front | None = None
    """What stands between the peers and gRPC, on addresses that have one."""
    files: KeptFiles = field(default_factory=KeptFiles)
    """What came with RPCs and is needed still."""

    def __post_init__(self) -> None:
        self.idle.set()

    @contextmanager
    def one(self, *, unary: bool) -> Iterator[None]:
        """Counts the RPC of the current task."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.unary += unary
        if self.unary:
            self.idle.clear()
        try:
            yield
        finally:
            self.tasks.discard(task)
            self.unary -= unary
            if not self.unary:
                self.idle.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One gRPC service, ready to be served."""

    name: str
    """Full name, `networkservice.NetworkService`."""
    register: Callable[[grpc.aio.Server, Running], None]


def network_service(handler: NetworkServiceHandler) -> Service:
    """Serves NetworkService.Request and Close by `handler`."""
    return Service(
        name=networkservice_pb2.DESCRIPTOR.services_by_name["NetworkService"].full_name,
        register=lambda server, running: networkservice_pb2_grpc.add_NetworkServiceServicer_to_server(
            _NetworkServiceServicer(handler, running), server
        ),
    )


def monitor_connection(handler: MonitorHandler) -> Service:
    """Serves MonitorConnection.MonitorConnections by `handler`."""
    return Service(
        name=connection_pb2.DESCRIPTOR.services_by_name["MonitorConnection"].full_name,
        register=lambda server, running: connection_pb2_grpc.add_MonitorConnectionServicer_to_server(
            _MonitorConnectionServicer(handler, running), server
        ),
    )


class _NetworkServiceServicer(networkservice_pb2_grpc.NetworkServiceServicer):
    def __init__(self, handler: NetworkServiceHandler, running: Running) -> None:
        self._handler = handler
        self._running = running

    async def Request(  # noqa: N802 - gRPC's name
        self, request: NetworkServiceRequest, context: "grpc.aio.ServicerContext[NetworkServiceRequest, Connection]"
    ) -> Connection:
        async def answer(call: Call) -> Connection:
            offered = [*request.mechanism_preferences]
            if request.connection.HasField("mechanism"):
                offered.append(request.connection.mechanism)
            mapping = await descriptors.receive(call.descriptors, offered)
            connection = await self._handler.request(request, call)
            if connection.HasField("mechanism"):
                connection = copy(connection)
                descriptors.restore(mapping, connection.mechanism)
                descriptors.send(call.descriptors, [connection.mechanism])
            return connection

        method = "/networkservice.NetworkService/Request"
        return await _unary(self._running, context, method, answer, request.connection.id)

    async def Close(  # noqa: N802 - gRPC's name
        self, request: Connection, context: "grpc.aio.ServicerContext[Connection, Empty]"
    ) -> Empty:
        async def answer(call: Call) -> Empty:
            if request.HasField("mechanism"):
                await descriptors.receive(call.descriptors, [request.mechanism])
            await self._handler.close(request, call)
            return Empty()

        return await _unary(self._running, context, "/networkservice.NetworkService/Close", answer, request.id)


class _MonitorConnectionServicer(connection_pb2_grpc.MonitorConnectionServicer):
    def __init__(self, handler: MonitorHandler, running: Running) -> None:
        self._handler = handler
        self._running = running

    async def MonitorConnections(  # type: ignore[override]  # writes its answers itself  # noqa: N802 - gRPC's name
        self,
        request: MonitorScopeSelector,
        context: "grpc.aio.ServicerContext[MonitorScopeSelector, ConnectionEvent]",
    ) -> None:
        await stream(
            self._running,
            context,
            "/connection.MonitorConnection/MonitorConnections",
            lambda call: _told(self._handler.monitor(request, call)),
        )


async def _told(events: AsyncGenerator[ConnectionEvent, None]) -> AsyncGenerator[ConnectionEvent, None]:
    """Names namespaces for one who is not sent the files."""
    async with aclosing(events):
        async for event in events:
            if any(View(each.mechanism).inode_url.startswith("file:") for each in event.connections.values()):
                event = copy(event)  # noqa: PLW2901 - the handler's own stays as it is
                for each in event.connections.values():
                    descriptors.by_number(each.mechanism)
            yield event


async def _unary(
    running: Running,
    context: "grpc.aio.ServicerContext[Request, Response]",
    method: str,
    answer: Callable[[Call], Awaitable[Response]],
    connection_id: str,
) -> Response:
    """Runs one RPC with one answer, about one connection; an exception becomes its status."""
    with running.one(unary=True):
        try:
            call = _call(running, context, method, connection_id)
            with call.descriptors.kept():
                return await answer(call)
        except Exception as error:  # the boundary to gRPC; CancelledError passes
            failure = error
        return await _fail(context, failure)


async def stream(
    running: Running,
    context: "grpc.aio.ServicerContext[Request, Response]",
    method: str,
    answers: Callable[[Call], AsyncGenerator[Response, None]],
) -> None:
    """Runs one RPC with many answers; an exception becomes its status."""
    with running.one(unary=False):
        try:
            # The generator is closed in this task, at once, and not when it is collected.
            async with aclosing(answers(_call(running, context, method))) as messages:
                async for message in messages:
                    await context.write(message)
        except Exception as error:  # the boundary to gRPC; CancelledError passes
            failure = error
        else:
            return
        await _fail(context, failure)


async def _fail(context: "grpc.aio.ServicerContext[Request, Response]", error: Exception) -> NoReturn:
    """Ends the RPC with the status of `error`. Called outside the handler of that, not to chain to it."""
    code, detail = status.of(error)
    await context.abort(code, detail)


def _call(
    running: Running,
    context: "grpc.aio.ServicerContext[Request, Response]",
    method: str,
    connection_id: str = "",
) -> Call:
    remaining_s = context.time_remaining()
    deadline = None if remaining_s is None else time.monotonic() + remaining_s
    transport = running.front.transport(context.peer()) if running.front is not None else None
    peer = transport.peer if transport is not None else None
    files: Descriptors = PassThrough()
    if transport is not None and transport.carries_files:
        files = SocketFiles(transport, running.files, connection_id, deadline)
    return Call(
        method=method,
        peer=context.peer(),
        metadata=tuple((key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)),
        deadline=deadline,
        tls_peer=peer,
        descriptors=files,
    )
