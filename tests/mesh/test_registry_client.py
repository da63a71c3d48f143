"""Registries as their clients call them: names out and in, paths beside them, changes as they come."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from forwarder.api.registry_pb2 import (
    NetworkService,
    NetworkServiceEndpoint,
    NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse,
    NetworkServiceQuery,
    NetworkServiceResponse,
)
from forwarder.errors import InvalidRequest, NextHopError
from forwarder.rpc import (
    Channel,
    Channels,
    NetworkServiceEndpointRegistry,
    NetworkServiceRegistry,
    Service,
    dial,
    held_socket,
    registry_pb2_grpc,
    serve,
)
from forwarder.rpc.descriptors import inode_of
from forwarder.rpc.services import Running

PATH = '{"Index":0,"PathSegments":null}'


class Endpoints(registry_pb2_grpc.NetworkServiceEndpointRegistryServicer):
    """Keeps what is registered, as it came; answers a path with it twice over."""

    def __init__(self) -> None:
        self.known: dict[str, NetworkServiceEndpoint] = {}
        self.changes: asyncio.Queue[NetworkServiceEndpointResponse] = asyncio.Queue()
        self.watchers = 0
        self.sent: dict[str, int | None] = {}
        """The files that came with registrations."""
        self.running = Running()

    def transport(self, context):
        """The caller's connection, for the files beside the messages."""
        return self.running.front.transport(context.peer())

    async def Register(self, request, context):
        await returns_path(context)
        if request.name == "refused":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no sufficient privileges")
        self.known[request.name] = request
        self.sent[request.name] = self.transport(context).received.get(inode_of(request.url) or (0, 0))
        return request

    async def Unregister(self, request, context):
        await returns_path(context)
        self.known.pop(request.name, None)
        return Empty()

    async def Find(self, request: NetworkServiceEndpointQuery, context):
        self.watchers += 1
        try:
            for each in self.known.values():
                if self.sent[each.name] is not None:
                    self.transport(context).enqueue(f"/proc/self/fd/{self.sent[each.name]}")
                yield NetworkServiceEndpointResponse(network_service_endpoint=each)
            while request.watch:
                yield await self.changes.get()
        finally:
            self.watchers -= 1


class Services(registry_pb2_grpc.NetworkServiceRegistryServicer):
    """The same for network services, of which it knows one."""

    async def Register(self, request, context):
        await returns_path(context)
        return NetworkService(name=request.name, payload=request.payload or "IP")

    async def Unregister(self, request, context):
        return Empty()

    async def Find(self, request: NetworkServiceQuery, context):
        yield NetworkServiceResponse(network_service=NetworkService(name=request.network_service.name, payload="IP"))


async def returns_path(context):
    given = [value for key, value in context.invocation_metadata() if key == "path"]
    if given:
        await context.send_initial_metadata([("path", "not this one"), ("path", given[0] * 2)])


@asynccontextmanager
async def registry(directory: Path) -> AsyncIterator[tuple[Endpoints, Channel]]:
    endpoints = Endpoints()
    add_endpoints = registry_pb2_grpc.add_NetworkServiceEndpointRegistryServicer_to_server
    add_services = registry_pb2_grpc.add_NetworkServiceRegistryServicer_to_server
    offered = [
        Service(
            name="registry.NetworkServiceEndpointRegistry",
            register=lambda server, running: (setattr(endpoints, "running", running), add_endpoints(endpoints, server)),
        ),
        Service(
            name="registry.NetworkServiceRegistry", register=lambda server, running: add_services(Services(), server)
        ),
    ]
    url = f"unix://{directory}/registry.sock"
    try:
        async with serve(offered, [url]), dial(url, timeout_s=10) as channel:
            yield endpoints, channel
    finally:
        for descriptor in endpoints.sent.values():
            if descriptor is not None:
                os.close(descriptor)


def own_socket(directory: Path) -> tuple[str, str]:
    """A URL that an endpoint could have, and what it is on the wire."""
    path = directory / "registry.sock"
    found = path.stat()
    return f"unix://{path}", f"inode://{found.st_dev}/{found.st_ino}"


def leads_to(url: str, path: Path) -> bool:
    named = Path(url.removeprefix("unix://"))
    return named.exists() and named.samefile(path)


async def test_an_endpoint_is_registered_with_its_socket_s_numbers_and_answered_as_it_was_given(tmp_path):
    async with registry(tmp_path) as (endpoints, channel):
        url, numbers = own_socket(tmp_path)
        given = NetworkServiceEndpoint(name="fwd", network_service_names=["forwarder"], url=url)
        registered = await NetworkServiceEndpointRegistry(channel).register(given, path=PATH, timeout_s=10)
        assert endpoints.known["fwd"].url == numbers
        assert registered.message == given
        assert registered.path == PATH * 2


async def test_urls_that_everybody_understands_stay_and_no_path_is_made_up(tmp_path):
    async with registry(tmp_path) as (endpoints, channel):
        given = NetworkServiceEndpoint(name="nse", url="tcp://10.0.0.1:5001")
        registered = await NetworkServiceEndpointRegistry(channel).register(given, timeout_s=10)
        assert endpoints.known["nse"] == given
        assert registered.path is None


async def test_an_endpoint_whose_socket_is_missing_can_leave_but_not_register(tmp_path):
    async with registry(tmp_path) as (endpoints, channel):
        client = NetworkServiceEndpointRegistry(channel)
        await client.register(NetworkServiceEndpoint(name="nse"), timeout_s=10)
        gone = NetworkServiceEndpoint(name="nse", url=f"unix://{tmp_path}/gone.sock")
        with pytest.raises(InvalidRequest, match=r"gone\.sock"):
            await client.register(gone, timeout_s=10)
        assert await client.unregister(gone, path=PATH, timeout_s=10) == PATH * 2
        assert endpoints.known == {}


async def test_a_refusal_keeps_its_status_and_says_what_was_asked(tmp_path):
    async with registry(tmp_path) as (_, channel):
        with pytest.raises(NextHopError, match=r"Register to unix:.*no sufficient privileges") as raised:
            await NetworkServiceEndpointRegistry(channel).register(NetworkServiceEndpoint(name="refused"), timeout_s=10)
        assert raised.value.status == "PERMISSION_DENIED"


async def test_find_tells_what_there_is_and_ends(tmp_path):
    async with registry(tmp_path) as (_, channel):
        client = NetworkServiceEndpointRegistry(channel)
        for name in ("a", "b"):
            await client.register(NetworkServiceEndpoint(name=name, url=own_socket(tmp_path)[0]), timeout_s=10)
        async with client.find(NetworkServiceEndpoint(), timeout_s=10) as found:
            answers = [answer.network_service_endpoint async for answer in found]
            assert [each.name for each in answers] == ["a", "b"]
            async with dial(answers[0].url, timeout_s=10) as again:
                assert again.connected


async def test_an_endpoint_is_dialled_by_the_file_of_its_socket_whatever_its_name(tmp_path):
    async with registry(tmp_path) as (_, channel):
        client = NetworkServiceEndpointRegistry(channel)
        await client.register(NetworkServiceEndpoint(name="nse", url=own_socket(tmp_path)[0]), timeout_s=10)
        (tmp_path / "registry.sock").rename(tmp_path / "elsewhere")
        async with client.find(NetworkServiceEndpoint(), timeout_s=10) as found:
            url = (await anext(found)).network_service_endpoint.url
            assert url.startswith(f"unix:///proc/{os.getpid()}/fd/")
            assert leads_to(url, tmp_path / "elsewhere")
            with held_socket(url) as held:
                async with dial(url, timeout_s=10) as channel_by_file, Channels(timeout_s=10) as channels:
                    assert channel_by_file.connected
                    async with channels.lend(url) as one, channels.lend(held) as other:
                        assert one is other
        assert not leads_to(url, tmp_path / "elsewhere")
        (tmp_path / "elsewhere").rename(tmp_path / "registry.sock")


async def test_a_watch_tells_changes_until_it_is_left(tmp_path):
    async with registry(tmp_path) as (endpoints, channel):
        client = NetworkServiceEndpointRegistry(channel)
        await client.register(NetworkServiceEndpoint(name="a"), timeout_s=10)
        async with client.find(NetworkServiceEndpoint(), watch=True) as found:
            assert (await anext(found)).network_service_endpoint.name == "a"
            gone = NetworkServiceEndpointResponse(network_service_endpoint={"name": "a"}, deleted=True)
            endpoints.changes.put_nowait(gone)
            assert await anext(found) == gone
            assert endpoints.watchers == 1
        async with asyncio.timeout(10):
            while endpoints.watchers:  # noqa: ASYNC110 - the server is told by the network
                await asyncio.sleep(0.005)


async def test_network_services_are_registered_found_and_removed(tmp_path):
    async with registry(tmp_path) as (_, channel):
        client = NetworkServiceRegistry(channel)
        registered = await client.register(NetworkService(name="icmp"), path=PATH, timeout_s=10)
        assert registered.message.payload == "IP"
        assert registered.path == PATH * 2
        async with client.find(NetworkService(name="icmp"), timeout_s=10) as found:
            assert [each.network_service.name async for each in found] == ["icmp"]
        assert await client.unregister(registered.message, timeout_s=10) is None


def test_a_url_that_names_an_open_file_is_held_for_as_long_as_it_is_needed(tmp_path):
    path = tmp_path / "file"
    path.touch()
    theirs = os.open(path, os.O_PATH)
    with held_socket(f"unix:///proc/self/fd/{theirs}") as url:
        os.close(theirs)
        assert os.path.samefile(url.removeprefix("unix://"), path)
    assert not os.path.exists(url.removeprefix("unix://"))
    with pytest.raises(InvalidRequest, match="cannot open"), held_socket(url):
        pass
    with held_socket("tcp://10.0.0.1:5001") as url:
        assert url == "tcp://10.0.0.1:5001"
