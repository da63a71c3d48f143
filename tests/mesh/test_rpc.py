"""Servers and channels over real sockets: what a caller and a handler can rely on."""

import asyncio
import os
import socket
import stat
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from forwarder.api.connection_pb2 import Connection, ConnectionEvent, Mechanism, MonitorScopeSelector
from forwarder.api.mechanisms import Kernel
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.api.x509 import Peer
from forwarder.errors import ConfigError, ForwarderError, InvalidRequest, NextHopError, RemoteProtocolError
from forwarder.rpc import (
    Call,
    Channel,
    NextHop,
    Server,
    Service,
    dial,
    monitor_connection,
    network_service,
    serve,
)
from tests.unit.api import wire

OWN_NETNS = "file:///proc/thread-self/ns/net"


def has_socket(url: str) -> bool:
    return Path(url.removeprefix("unix://")).exists()


def own_netns_by_numbers() -> str:
    found = Path("/proc/thread-self/ns/net").stat()
    return f"inode://{found.st_dev}/{found.st_ino}"


def is_own_netns(path: str) -> bool:
    return Path(path).exists() and Path(path).samefile("/proc/thread-self/ns/net")


def file_of(mechanism: Mechanism) -> str:
    """The path that a mechanism names its namespace by."""
    url = Kernel(mechanism).inode_url
    assert url.startswith(f"file:///proc/{os.getpid()}/fd/")
    return url.removeprefix("file://")


class Handler:
    """Answers with what it was asked, and remembers everything."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.requests: list[NetworkServiceRequest] = []
        self.closed: list[Connection] = []
        self.error: Exception | None = None
        self.answer: Callable[[Connection], None] = lambda connection: None
        self.hang = False
        self.undo_s = 0.0
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.undone = asyncio.Event()
        self.events: asyncio.Queue[ConnectionEvent | Exception | None] = asyncio.Queue()
        self.monitor_ended = asyncio.Event()

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        self.calls.append(call)
        self.requests.append(copy(request))
        self.started.set()
        if self.error is not None:
            raise self.error
        if self.hang:
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                await asyncio.sleep(self.undo_s)
                self.undone.set()
                raise
        connection = request.connection
        if request.mechanism_preferences:
            connection.mechanism.CopyFrom(request.mechanism_preferences[0])
        self.answer(connection)
        return connection

    async def close(self, connection: Connection, call: Call) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        self.closed.append(copy(connection))

    async def monitor(self, selector: MonitorScopeSelector, call: Call) -> AsyncGenerator[ConnectionEvent, None]:
        self.calls.append(call)
        try:
            while (event := await self.events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.monitor_ended.set()


def services(handler: Handler) -> list[Service]:
    return [network_service(handler), monitor_connection(handler)]


@pytest.fixture(params=["unix", "tcp"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"unix://{tmp_path}/nsm.sock" if request.param == "unix" else "tcp://127.0.0.1:0"


@pytest.fixture
def unix(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/nsm.sock"


@asynccontextmanager
async def running(handler: Handler, url: str) -> AsyncIterator[tuple[Server, Channel, NextHop]]:
    async with serve(services(handler), [url]) as server, dial(server.urls[0], timeout_s=10) as channel:
        yield server, channel, NextHop(channel)


def a_request(**parameters: str) -> NetworkServiceRequest:
    return NetworkServiceRequest(
        connection=Connection(id="nsc-0", network_service="icmp"),
        mechanism_preferences=[Mechanism(cls="LOCAL", type="KERNEL", parameters=parameters)],
    )


# --- Messages -------------------------------------------------------------------------------


async def test_a_request_reaches_the_handler_and_its_answer_the_caller(url: str) -> None:
    handler = Handler()
    async with running(handler, url) as (_, _, hop):
        connection = await hop.request(a_request(name="nsm-1"), timeout_s=10)
        assert handler.requests == [a_request(name="nsm-1")]
        assert connection.mechanism.parameters["name"] == "nsm-1"
        await hop.close(connection, timeout_s=10)
        assert handler.closed == [connection]


async def test_unknown_fields_survive_a_whole_hop(unix: str) -> None:
    unknown = wire.delimited(500, b"from a later API")
    request = NetworkServiceRequest.FromString(
        wire.delimited(1, wire.encode("connection.Connection", {"id": "a"}) + wire.delimited(6, unknown) + unknown)
        + unknown
    )
    handler = Handler()
    async with running(handler, unix) as (_, _, hop):
        connection = await hop.request(request, timeout_s=10)
    assert handler.requests[0].SerializeToString() == request.SerializeToString()
    assert connection.SerializeToString().count(unknown) == 2


async def test_what_the_caller_gave_is_left_unchanged(unix: str) -> None:
    request = a_request(inodeURL=OWN_NETNS)
    handler = Handler()
    async with running(handler, unix) as (_, _, hop):
        connection = await hop.request(request, timeout_s=10)
        await hop.close(connection, timeout_s=10)
    assert request == a_request(inodeURL=OWN_NETNS)
    assert connection.mechanism.parameters["inodeURL"] == OWN_NETNS


# --- Namespaces -----------------------------------------------------------------------------


async def test_a_namespace_travels_as_an_open_file_and_comes_back_as_it_was_named(unix: str) -> None:
    class Looks(Handler):
        async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
            self.seen = os.stat(file_of(request.mechanism_preferences[0]))
            return await super().request(request, call)

    handler = Looks()
    async with running(handler, unix) as (_, _, hop):
        connection = await hop.request(a_request(inodeURL=OWN_NETNS), timeout_s=10)
        await hop.close(connection, timeout_s=10)
    assert os.path.samestat(handler.seen, os.stat("/proc/thread-self/ns/net"))
    assert Kernel(connection.mechanism).inode_url == OWN_NETNS
    for mechanism in (handler.requests[0].mechanism_preferences[0], handler.closed[0].mechanism):
        assert not is_own_netns(file_of(mechanism))  # nobody kept it


async def test_a_namespace_travels_by_its_numbers_where_no_files_can() -> None:
    handler = Handler()
    async with running(handler, "tcp://127.0.0.1:0") as (_, _, hop):
        await hop.request(a_request(inodeURL=OWN_NETNS), timeout_s=10)
    assert Kernel(handler.requests[0].mechanism_preferences[0]).inode_url == own_netns_by_numbers()


async def test_a_handler_s_own_namespace_comes_back_as_an_open_file_for_as_long_as_it_is_kept(unix: str) -> None:
    handler = Handler()
    handler.answer = lambda connection: connection.mechanism.parameters.update(inodeURL=OWN_NETNS)
    async with running(handler, unix) as (_, channel, hop):
        with channel.files("nsc-0").kept():
            path = file_of((await hop.request(a_request(), timeout_s=10)).mechanism)
            assert is_own_netns(path)
            assert file_of((await hop.request(a_request(), timeout_s=10)).mechanism) == path
        assert not is_own_netns(path)


@pytest.mark.parametrize("field", ["preference", "mechanism"])
async def test_a_namespace_that_means_the_reader_s_own_is_refused(unix: str, field: str) -> None:
    request = a_request(inodeURL=OWN_NETNS)
    if field == "mechanism":
        request.connection.mechanism.CopyFrom(request.mechanism_preferences.pop())
    handler = Handler()
    async with serve(services(handler), [unix]), grpc.aio.insecure_channel(unix) as channel:
        call = channel.unary_unary(
            "/networkservice.NetworkService/Request", request_serializer=NetworkServiceRequest.SerializeToString
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert OWN_NETNS in (caught.value.details() or "")
    assert not handler.requests


async def test_an_answer_that_means_the_reader_s_own_namespace_is_closed_and_reported(unix: str) -> None:
    closed = asyncio.Event()

    async def request(raw: bytes, context: object) -> bytes:
        mechanism = Kernel.new(inode_url=OWN_NETNS).mechanism
        return Connection(id="x", mechanism=mechanism).SerializeToString()

    async def close(raw: bytes, context: object) -> bytes:
        closed.set()
        return empty_pb2.Empty().SerializeToString()

    server = grpc.aio.server()
    methods = {
        "Request": grpc.unary_unary_rpc_method_handler(request),
        "Close": grpc.unary_unary_rpc_method_handler(close),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("networkservice.NetworkService", methods)])
    server.add_insecure_port(unix)
    await server.start()
    try:
        async with dial(unix, timeout_s=10) as channel:
            request_ = a_request()
            with pytest.raises(InvalidRequest, match="cannot look at"):
                await NextHop(channel).request(a_request(inodeURL="file:///does/not/exist"), timeout_s=10)
            assert not closed.is_set()
            with pytest.raises(RemoteProtocolError, match="thread-self"):
                await NextHop(channel).request(request_, timeout_s=10)
    finally:
        await server.stop(None)
    assert closed.is_set()


# --- Statuses -------------------------------------------------------------------------------


async def test_an_error_of_the_handler_reaches_the_caller_with_status_and_detail(url: str) -> None:
    handler = Handler()
    handler.error = InvalidRequest("mechanism KERNEL: no inodeURL", hint="name a namespace")
    async with running(handler, url) as (_, channel, hop):
        for call in (hop.request(a_request(), timeout_s=10), hop.close(Connection(id="x"), timeout_s=10)):
            with pytest.raises(NextHopError) as caught:
                await call
            assert caught.value.status == "INVALID_ARGUMENT"
            assert caught.value.detail == "mechanism KERNEL: no inodeURL (name a namespace)"
            assert str(channel.address) in caught.value.message


async def test_a_status_passes_through_two_hops(tmp_path: Path) -> None:
    far, near = Handler(), Handler()
    far.error = NextHopError("dial tcp://nse:1", status="UNAVAILABLE", detail="Connection refused")
    async with running(far, f"unix://{tmp_path}/far") as (_, _, to_far):
        with pytest.raises(NextHopError) as first:
            await to_far.request(a_request(), timeout_s=10)
        near.error = first.value
        async with running(near, f"unix://{tmp_path}/near") as (_, _, to_near):
            with pytest.raises(NextHopError) as second:
                await to_near.request(a_request(), timeout_s=10)
    assert second.value.status == "UNAVAILABLE"
    assert second.value.detail.endswith("dial tcp://nse:1: Connection refused")


async def test_a_bug_in_a_handler_is_told_to_the_log_only(unix: str, caplog: pytest.LogCaptureFixture) -> None:
    handler = Handler()
    handler.error = KeyError("secret")
    async with running(handler, unix) as (_, _, hop):
        with pytest.raises(NextHopError) as caught:
            await hop.request(a_request(), timeout_s=10)
    assert (caught.value.status, caught.value.detail) == ("INTERNAL", "internal error")
    assert "secret" in caplog.text
    caplog.clear()  # its records hold the handler's frames


async def test_a_method_nobody_serves_is_unimplemented(unix: str) -> None:
    handler = Handler()
    async with serve([monitor_connection(handler)], [unix]), dial(unix, timeout_s=10) as channel:
        with pytest.raises(NextHopError) as caught:
            await NextHop(channel).request(a_request(), timeout_s=10)
    assert caught.value.status == "UNIMPLEMENTED"


async def test_a_message_that_is_none_fails_its_call_only(unix: str) -> None:
    handler = Handler()
    async with running(handler, unix) as (_, channel, hop):
        call = channel.grpc.unary_unary("/networkservice.NetworkService/Request")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"\xff\xff\xff", timeout=10)
        await hop.request(a_request(), timeout_s=10)
    assert len(handler.requests) == 1


async def test_a_message_above_the_limit_is_refused(unix: str) -> None:
    handler = Handler()
    async with running(handler, unix) as (_, _, hop):
        with pytest.raises(NextHopError) as caught:
            await hop.request(a_request(name="x" * (5 << 20)), timeout_s=10)
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        await hop.request(a_request(), timeout_s=10)


# --- Deadlines, cancellation, metadata ------------------------------------------------------


async def test_a_deadline_travels_with_the_call(unix: str) -> None:
    handler = Handler()
    async with running(handler, unix) as (_, _, hop):
        await hop.request(a_request(), timeout_s=1000)
        remaining_s = handler.calls[0].remaining_s()
        assert remaining_s is not None
        assert 900 < remaining_s <= 1100  # gRPC writes long timeouts in few digits, rounded up
        await hop.request(a_request())
        assert handler.calls[1].remaining_s() is None


async def test_a_deadline_that_passes_cancels_the_handler_and_tells_the_caller(unix: str) -> None:
    handler = Handler()
    handler.hang = True
    async with running(handler, unix) as (_, _, hop):
        with pytest.raises(NextHopError) as caught:
            await hop.request(a_request(), timeout_s=0.2)
        assert caught.value.status == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(handler.undone.wait(), 10)


async def test_a_caller_that_gives_up_cancels_the_handler(url: str) -> None:
    handler = Handler()
    handler.hang = True
    async with running(handler, url) as (_, _, hop):
        call = asyncio.ensure_future(hop.request(a_request()))
        await handler.started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(handler.undone.wait(), 10)
        handler.hang = False
        await hop.request(a_request(), timeout_s=10)


async def test_a_caller_that_vanishes_cancels_the_handler(unix: str) -> None:
    handler = Handler()
    handler.hang = True
    async with serve(services(handler), [unix]):
        async with dial(unix, timeout_s=10) as channel:
            call = asyncio.ensure_future(NextHop(channel).request(a_request()))
            await handler.started.wait()
        with suppress(asyncio.CancelledError, NextHopError):
            await call
        await asyncio.wait_for(handler.undone.wait(), 10)


async def test_metadata_and_peer_reach_the_handler(url: str) -> None:
    class Twice:
        def metadata(self, peer: Peer | None) -> list[tuple[str, str]]:
            return [("nsm-client-token", f"for {peer}"), ("x", "1"), ("x", "2")]

    handler = Handler()
    async with (
        serve(services(handler), [url]) as server,
        dial(server.urls[0], timeout_s=10, credentials=Twice()) as channel,
    ):
        hop = NextHop(channel)
        await hop.request(a_request(), timeout_s=10)
        await hop.close(Connection(id="x"), timeout_s=10)
        handler.events.put_nowait(None)
        async with hop.monitor(MonitorScopeSelector()) as events:
            assert [event async for event in events] == []
    assert len(handler.calls) == 3
    for call in handler.calls:
        assert call.values("nsm-client-token") == ("for None",)
        assert call.values("x") == ("1", "2")
        assert call.peer != ""
        assert call.tls_peer is None
    assert [call.method.rpartition("/")[2] for call in handler.calls] == ["Request", "Close", "MonitorConnections"]


# --- Monitoring -----------------------------------------------------------------------------


async def test_events_arrive_in_order_until_the_server_ends_the_stream(unix: str) -> None:
    handler = Handler()
    sent = [ConnectionEvent(connections={str(n): Connection(id=str(n))}) for n in range(5)]
    for event in (*sent, None):
        handler.events.put_nowait(event)
    async with running(handler, unix) as (_, _, hop), hop.monitor(MonitorScopeSelector()) as events:
        assert [event async for event in events] == sent


async def test_a_watcher_that_leaves_ends_the_handler_s_generator(unix: str) -> None:
    handler = Handler()
    handler.events.put_nowait(ConnectionEvent())
    async with running(handler, unix) as (_, _, hop):
        async with hop.monitor(MonitorScopeSelector()) as events:
            await anext(events)
            assert not handler.monitor_ended.is_set()
        await asyncio.wait_for(handler.monitor_ended.wait(), 10)


async def test_an_error_in_the_stream_is_raised_where_events_are_awaited(unix: str) -> None:
    handler = Handler()
    handler.events.put_nowait(ConnectionEvent())
    handler.events.put_nowait(InvalidRequest("no such selector"))
    async with running(handler, unix) as (_, _, hop), hop.monitor(MonitorScopeSelector()) as events:
        await anext(events)
        with pytest.raises(NextHopError, match="no such selector") as caught:
            await anext(events)
    assert caught.value.status == "INVALID_ARGUMENT"


async def test_a_server_that_stops_ends_its_streams_at_once(unix: str) -> None:
    handler = Handler()
    handler.events.put_nowait(ConnectionEvent())
    async with serve(services(handler), [unix], drain_s=1000):
        channel_context = dial(unix, timeout_s=10)
        channel = await channel_context.__aenter__()
        stream_context = NextHop(channel).monitor(MonitorScopeSelector())
        events = await stream_context.__aenter__()
        await anext(events)
    assert handler.monitor_ended.is_set()
    with pytest.raises(NextHopError):
        await anext(events)
    await stream_context.__aexit__(None, None, None)
    await channel_context.__aexit__(None, None, None)


# --- Life of a server -----------------------------------------------------------------------


async def test_a_server_that_stops_lets_a_request_finish(unix: str) -> None:
    handler = Handler()
    handler.hang = True
    async with dial_later(unix) as dialled:
        async with serve(services(handler), [unix], drain_s=1000):
            call = asyncio.ensure_future(NextHop(await dialled()).request(a_request()))
            await handler.started.wait()
            asyncio.get_running_loop().call_later(0.05, handler.go_on.set)
        assert (await call).id == "nsc-0"
    assert not handler.cancelled.is_set()


async def test_a_server_that_stops_cancels_what_does_not_finish_and_waits_for_its_undoing(unix: str) -> None:
    handler = Handler()
    handler.hang = True
    handler.undo_s = 0.2
    async with dial_later(unix) as dialled:
        async with serve(services(handler), [unix], drain_s=0.05):
            call = asyncio.ensure_future(NextHop(await dialled()).request(a_request()))
            await handler.started.wait()
        assert handler.undone.is_set()
        with pytest.raises(NextHopError):
            await call


async def test_a_server_cancelled_while_it_stops_still_stops(unix: str) -> None:
    handler = Handler()
    handler.hang = True
    handler.undo_s = 0.2
    leaving = asyncio.Event()

    async def program() -> None:
        async with serve(services(handler), [unix], drain_s=0.1):
            await handler.started.wait()
            leaving.set()

    async with dial_later(unix) as dialled:
        running_program = asyncio.ensure_future(program())
        call = asyncio.ensure_future(NextHop(await dialled()).request(a_request()))
        await leaving.wait()
        running_program.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running_program
        assert handler.undone.is_set()
        assert not has_socket(unix)
        with pytest.raises(NextHopError):
            await call


@asynccontextmanager
async def dial_later(url: str) -> AsyncIterator[Callable[[], "asyncio.Future[Channel]"]]:
    """Gives a function that dials; the channel lives as long as this context."""
    contexts = []

    async def dialled() -> Channel:
        context = dial(url, timeout_s=10)
        channel = await context.__aenter__()
        contexts.append(context)
        return channel

    yield lambda: asyncio.ensure_future(dialled())
    for context in contexts:
        await context.__aexit__(None, None, None)


async def test_a_socket_is_open_to_everybody_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on" / "the" / "way" / "nsm.sock"
    async with serve(services(Handler()), [f"unix://{path}"]) as server:
        assert server.urls == (f"unix://{path}",)
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
    assert not path.exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nsm.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    before = path.stat().st_ino
    handler = Handler()
    async with running(handler, f"unix://{path}") as (_, _, hop):
        await hop.request(a_request(), timeout_s=10)
        assert path.stat().st_ino != before or path.exists()


async def test_a_socket_somebody_answers_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "nsm.sock"
    handler = Handler()
    async with running(handler, f"unix://{path}") as (_, _, hop):
        with pytest.raises(ConfigError, match="another process listens there"):
            async with serve(services(Handler()), [f"unix://{path}"]):
                pass
        await hop.request(a_request(), timeout_s=10)


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ConfigError, match="not a socket"):
        async with serve(services(Handler()), [f"unix://{path}"]):
            pass
    assert path.read_text() == "data"


async def test_a_failure_on_one_address_leaves_none_behind(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError) as caught:
            async with serve(services(Handler()), [f"unix://{tmp_path}/nsm.sock", busy]):
                pass
        assert busy in str(caught.value)
    assert not (tmp_path / "nsm.sock").exists()


@pytest.mark.parametrize("url", ["", "nsm.sock", "unix://relative", "http://x:1", "inode://1/2"])
async def test_a_malformed_listen_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with serve(services(Handler()), [url]):
            pass
    assert f"listen on {url}" in str(caught.value)


async def test_a_tcp_port_of_zero_is_reported_as_bound() -> None:
    handler = Handler()
    async with serve(services(handler), ["tcp://127.0.0.1:0", "tcp://[::1]:0"]) as server:
        assert all(address.port > 0 for address in server.addresses)
        for url in server.urls:
            async with dial(url.removeprefix("tcp://"), timeout_s=10) as channel:
                await NextHop(channel).request(a_request(), timeout_s=10)
    assert len(handler.requests) == 2


async def test_a_tcp_port_is_not_shared() -> None:
    async with serve(services(Handler()), ["tcp://127.0.0.1:0"]) as server:
        with pytest.raises(ConfigError):
            async with serve(services(Handler()), server.urls):
                pass


async def test_health_is_serving_for_the_whole_and_each_service(url: str) -> None:
    async with running(Handler(), url) as (_, channel, _):
        health = health_pb2_grpc.HealthStub(channel.grpc)
        for name in ("", "networkservice.NetworkService", "connection.MonitorConnection"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(service="nobody.Knows"), timeout=10)


async def test_reflection_shows_the_services_and_their_files(unix: str) -> None:
    async with running(Handler(), unix) as (_, channel, _):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel.grpc)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="connection.MonitorConnection"),
        ]
        listed, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked), timeout=10)]
    names = {service.name for service in listed.list_services_response.service}
    assert {"networkservice.NetworkService", "connection.MonitorConnection", "grpc.health.v1.Health"} <= names
    assert b"connection.proto" in file.file_descriptor_response.file_descriptor_proto[0]


# --- Dialing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("unix:///does/not/exist", "No such file or directory"),
        ("tcp://127.0.0.1:1", "Connection refused"),
        ("127.0.0.1:1", "Connection refused"),
        ("inode://1/2", "no bound unix socket has this file"),
    ],
)
async def test_a_server_that_is_not_there_is_unavailable_and_the_reason_is_said(url: str, reason: str) -> None:
    with pytest.raises(NextHopError) as caught:
        async with dial(url, timeout_s=0.2):
            pass
    assert caught.value.status == "UNAVAILABLE"
    assert f"dial {url}" in str(caught.value)
    assert reason in str(caught.value)


async def test_a_server_that_does_not_speak_grpc_is_unavailable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        with pytest.raises(NextHopError, match="does not speak gRPC"):
            async with dial(f"unix://{tmp_path}/mute", timeout_s=0.2):
                pass


async def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="foo"):
        async with dial("foo"):
            pass


async def test_a_socket_is_found_by_the_numbers_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "nsm.sock"
    handler = Handler()
    async with serve(services(handler), [f"unix://{path}"]):
        found = path.stat()
        async with dial(f"inode://{found.st_dev}/{found.st_ino}", timeout_s=10) as channel:
            await NextHop(channel).request(a_request(), timeout_s=10)
    assert len(handler.requests) == 1


async def test_a_server_that_comes_up_while_it_is_dialled_is_reached(unix: str) -> None:
    handler = Handler()
    dialling = dial(unix, timeout_s=30)
    waiting = asyncio.ensure_future(dialling.__aenter__())
    await asyncio.sleep(0.15)
    async with serve(services(handler), [unix]):
        await NextHop(await waiting).request(a_request(), timeout_s=10)
        await dialling.__aexit__(None, None, None)


async def test_dialling_can_be_cancelled(tmp_path: Path) -> None:
    waiting = asyncio.ensure_future(dial(f"unix://{tmp_path}/nobody", timeout_s=1000).__aenter__())
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_many_requests_at_once_are_answered_each_by_its_own(unix: str) -> None:
    handler = Handler()
    async with running(handler, unix) as (_, _, hop):
        ids = [str(number) for number in range(200)]
        answers = await asyncio.gather(
            *(hop.request(NetworkServiceRequest(connection=Connection(id=each)), timeout_s=60) for each in ids)
        )
    assert [answer.id for answer in answers] == ids


async def test_a_hop_that_fails_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    async def attempt() -> None:
        with suppress(ForwarderError):
            async with dial(f"unix://{tmp_path}/nobody", timeout_s=0.05):
                pass

    await attempt()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(10):
        await attempt()
    for _ in range(200):  # gRPC closes on threads of its own, when it gets to it
        if len(os.listdir("/proc/self/fd")) <= before + 1 and threading.active_count() <= threads + 1:
            break
        await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert threading.active_count() <= threads + 1
