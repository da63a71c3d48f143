"""With identities: every hop proves who it is, policies hold, and a forwarder program runs on SPIRE's socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import Connection
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy, names
from forwarder.api.registry_pb2 import NetworkService, NetworkServiceEndpoint
from forwarder.api.spiffe_id import SpiffeId
from forwarder.errors import NextHopError
from forwarder.mesh.endpoint import Endpoint, assigns, kernel_end
from forwarder.mesh.identity import serve_workloads
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.rpc import NextHop, dial, monitor_connection, network_service, serve
from forwarder.security import Authority, SvidTokens, TokenMetadata, claims
from tests.support.certificates import Fixed
from tests.support.connections import connection
from tests.support.domain import kernel, links, ping, pod, until
from tests.support.manager import Manager, managed
from tests.support.programs import running

DOMAIN = "example.org"


class Mesh:
    """A manager and an endpoint here, and a forwarder that is a program of its own, all with identities."""

    def __init__(self, directory: Path, authority: Authority, manager: Manager) -> None:
        self.directory = directory
        self.authority = authority
        self.manager = manager
        self.url = f"unix://{directory}/fwd.sock"

    def who(self, name: str, authority: Authority | None = None) -> Fixed:
        authority = authority or self.authority
        return Fixed(authority.issue(SpiffeId.parse(f"spiffe://{DOMAIN}/{name}")), authority)

    @asynccontextmanager
    async def calling(self, who: Fixed, url: str = "") -> AsyncIterator[NextHop]:
        """The manager, or whoever listens at `url`, as somebody calls it."""
        tokens = TokenMetadata(SvidTokens(who, lifetime_s=60))
        url = url or f"unix://{self.directory}/nsm.sock"
        async with dial(url, identity=who, credentials=tokens) as channel:
            yield NextHop(channel)


@asynccontextmanager
async def mesh(directory: Path) -> AsyncIterator[Mesh]:
    authority = Authority(DOMAIN)
    manager_url, socket = f"unix://{directory}/nsm.sock", f"unix://{directory}/agent.sock"
    async with AsyncExitStack() as stack:
        made = Mesh(directory, authority, Manager())
        made.manager = await stack.enter_async_context(managed(manager_url, Manager(identity=made.who("nsmgr"))))
        await stack.enter_async_context(serve_workloads(authority, {f"spiffe://{DOMAIN}/fwd": socket}))
        netns = stack.enter_context(pod())
        who = made.who("nse")
        endpoint = Endpoint(
            name="nse",
            services=["web"],
            mechanisms={"KERNEL": kernel_end(netns)},
            extensions=[assigns(PointToPointIpam([["172.16.0.0/24"]]))],
            tokens=SvidTokens(who, lifetime_s=60),
        )
        await stack.enter_async_context(endpoint)
        url = f"unix://{directory}/nse.sock"
        services = [network_service(endpoint), monitor_connection(endpoint)]
        await stack.enter_async_context(serve(services, [url], identity=who, drain_s=0.2))
        made.manager.services.put(NetworkService(name="web", payload="ETHERNET"))
        made.manager.endpoints.put(NetworkServiceEndpoint(name="nse", url=url, network_service_names=["web"]))
        options = ("--listen-on", made.url, "--connect-to", manager_url, "--name", "fwd")
        with running("forwarder", *options, SPIFFE_ENDPOINT_SOCKET=socket) as forwarder:
            await asyncio.to_thread(forwarder.wait_for, "serving, ")
            try:
                yield made
            finally:
                await asyncio.to_thread(forwarder.end)  # the manager answers meanwhile
        assert made.manager.unregistered == ["fwd"]


def first(*preferences: object) -> NetworkServiceRequest:
    return NetworkServiceRequest(
        connection=connection("nsc:nsc-0", network_service="web"), mechanism_preferences=preferences
    )


async def test_a_forwarder_on_spire_s_socket_registers_and_serves_with_signed_tokens(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        await until(lambda: "fwd" in made.manager.endpoints.items)
        with pod() as client:
            async with made.calling(made.who("nsc")) as manager:
                answer = await manager.request(first(kernel(client)), timeout_s=10)
                assert names(answer.path) == ["nsc", "nsmgr", "fwd", "nse"]
                told = [claims(segment.token) for segment in answer.path.path_segments]
                assert [each.subject.rsplit("/", 1)[1] for each in told] == names(answer.path)
                assert await ping(client, answer.context.ip_context.dst_ip_addrs[0]) == 3
                answer = await manager.request(NetworkServiceRequest(connection=answer), timeout_s=10)
                await manager.close(answer, timeout_s=10)
            assert links(client) == []


async def test_without_a_certificate_of_the_mesh_nobody_gets_as_far_as_a_call(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        stranger = made.who("nsmgr", Authority(DOMAIN))
        with pytest.raises(NextHopError, match=r"UNAVAILABLE|dial"):
            async with made.calling(stranger, made.url) as forwarder:
                await forwarder.request(first(), timeout_s=5)
        with pytest.raises(NextHopError):
            async with dial(made.url) as channel:
                await NextHop(channel).request(first(), timeout_s=5)


async def test_somebody_else_s_close_and_request_are_denied_by_the_rule_s_name(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        await until(lambda: "fwd" in made.manager.endpoints.items)
        with pod() as client:
            async with made.calling(made.who("nsc")) as manager:
                answer = await manager.request(first(kernel(client)), timeout_s=10)
                ours = answer.path.path_segments[2]
                async with made.calling(made.who("other"), made.url) as forwarder:
                    theirs = connection("other:x", f"fwd:{ours.id}", network_service="web")
                    with pytest.raises(NextHopError, match=r"no sufficient privileges.*tokens_chained"):
                        await forwarder.close(theirs, timeout_s=5)
                    with pytest.raises(NextHopError, match=r"no sufficient privileges.*belongs to .*nsc"):
                        await forwarder.request(first_of(theirs, answer), timeout_s=5)
                assert await ping(client, answer.context.ip_context.dst_ip_addrs[0]) == 3
                await manager.close(answer, timeout_s=10)


def first_of(path: Connection, answer: Connection) -> NetworkServiceRequest:
    """A Request that claims an established connection."""
    asked = copy(path)
    asked.mechanism.CopyFrom(answer.mechanism)
    return NetworkServiceRequest(connection=asked)
