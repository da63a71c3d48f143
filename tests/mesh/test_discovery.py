"""Requests that come from a manager go to endpoints that its registry names, and frames flow."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from forwarder import config
from forwarder.api import constants
from forwarder.api.connection_pb2 import RESELECT_REQUESTED, Connection
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import names
from forwarder.api.registry_pb2 import (
    Destination,
    Match,
    NetworkService,
    NetworkServiceEndpoint,
    NetworkServiceLabels,
)
from forwarder.cli.forwarder import endpoint_of, means
from forwarder.clock import SystemClock
from forwarder.dataplane import Dataplane
from forwarder.errors import NextHopError
from forwarder.mesh.endpoint import Endpoint, assigns, kernel_end
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.mesh.registration import Registration
from forwarder.netns import Netns
from forwarder.rpc import Channels, NextHop, dial, monitor_connection, network_service, serve
from forwarder.service import Forwarder
from forwarder.service.discovered import DiscoveredNextHops
from tests.support.connections import connection
from tests.support.domain import kernel, links, ping, pod
from tests.support.manager import Manager, managed

SERVICE = "web"


class Mesh:
    """A manager, a forwarder that has registered with it, and endpoints."""

    def __init__(self, directory: Path, manager: Manager, forwarder: Forwarder, stack: AsyncExitStack) -> None:
        self.manager = manager
        self.forwarder = forwarder
        self.endpoints: dict[str, Endpoint] = {}
        self.pods: dict[str, Netns] = {}
        self._directory = directory
        self._stack = stack

    async def endpoint(self, name: str, **labels: str) -> Endpoint:
        """Starts an endpoint and registers it."""
        netns = self.pods[name] = self._stack.enter_context(pod())
        made = Endpoint(
            name=name,
            services=[SERVICE],
            mechanisms={constants.KERNEL: kernel_end(netns)},
            extensions=[assigns(PointToPointIpam([[f"172.16.{len(self.endpoints)}.0/24"]]))],
        )
        url = f"unix://{self._directory}/{name}.sock"
        self.endpoints[name] = await self._stack.enter_async_context(made)
        services = [network_service(made), monitor_connection(made)]
        await self._stack.enter_async_context(serve(services, [url], drain_s=0.2))
        self.known(name, url, **labels)
        return made

    def known(self, name: str, url: str, **labels: str) -> None:
        """Registers an endpoint that may not be there."""
        self.manager.endpoints.put(
            NetworkServiceEndpoint(
                name=name,
                url=url,
                network_service_names=[SERVICE],
                network_service_labels={SERVICE: NetworkServiceLabels(labels=labels)},
            )
        )

    def service(self, *matches: Match, payload: str = constants.ETHERNET) -> None:
        self.manager.services.put(NetworkService(name=SERVICE, payload=payload, matches=matches))

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[NextHop]:
        """The manager, as a client calls it."""
        async with dial(f"unix://{self._directory}/nsm.sock") as channel:
            yield NextHop(channel)

    async def request(self, netns: Netns, number: int = 0, **fields: object) -> Connection:
        given = connection(f"nsc:nsc-{number}", **{"network_service": SERVICE, **fields})
        request = NetworkServiceRequest(connection=given, mechanism_preferences=[kernel(netns, f"nsm-{number}")])
        return await self.again(request)

    async def again(self, given: NetworkServiceRequest | Connection) -> Connection:
        request = NetworkServiceRequest(connection=given) if isinstance(given, Connection) else given
        async with self.asking() as manager:
            return await manager.request(request, timeout_s=10)

    async def close(self, given: Connection) -> None:
        async with self.asking() as manager:
            await manager.close(given, timeout_s=10)


@asynccontextmanager
async def mesh(directory: Path) -> AsyncIterator[Mesh]:
    manager_url, url = f"unix://{directory}/nsm.sock", f"unix://{directory}/fwd.sock"
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        manager = await stack.enter_async_context(managed(manager_url, Manager()))
        dataplane = await stack.enter_async_context(Dataplane())
        made = stack.enter_context(means(dataplane))
        channels = await stack.enter_async_context(Channels())
        forwarder = Forwarder(
            name="fwd",
            mechanisms=made.mechanisms,
            vwires=dataplane,
            next_hops=DiscoveredNextHops(channels, manager_url, clock),
            channels=channels,
            direct=made.direct,
        )
        endpoints = await stack.enter_async_context(AsyncExitStack())
        await stack.enter_async_context(forwarder)
        await stack.enter_async_context(serve(forwarder.services(), [url], drain_s=0.2))
        endpoint = endpoint_of(config.ForwarderSettings(name="fwd"), url)
        registration = await stack.enter_async_context(Registration(channels, manager_url, endpoint, clock))
        assert await registration.settled(5)
        yield Mesh(directory, manager, forwarder, endpoints)


def on(**selector: str) -> Match:
    return Match(routes=[Destination(destination_selector=selector)])


async def test_a_request_through_the_manager_reaches_the_endpoint_and_frames_flow(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        await made.endpoint("nse")
        with pod() as client:
            answer = await made.request(client)
            assert names(answer.path) == ["nsc", "nsmgr", "fwd", "nse"]
            assert (answer.path.index, answer.id) == (0, "nsc-0")
            assert answer.network_service_endpoint_name == "nse"
            assert answer.payload == constants.ETHERNET
            assert await ping(client, answer.context.ip_context.dst_ip_addrs[0]) == 3
            again = await made.again(answer)
            assert [each.id for each in again.path.path_segments] == [each.id for each in answer.path.path_segments]
            assert made.manager.finds[-1].name == "nse", "a refresh asks for its endpoint by name"
            await made.close(again)
            assert links(client) == []


async def test_endpoints_are_taken_in_turn(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        for name in ("a", "b"):
            await made.endpoint(name)
        with pod() as client:
            answers = [await made.request(client, number) for number in range(4)]
            assert [each.network_service_endpoint_name for each in answers] == ["a", "b", "a", "b"]
            for each in answers:
                await made.close(each)


async def test_labels_decide_by_the_service_s_matches(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service(on(nodeName="{{.nodeName}}"))
        await made.endpoint("a", nodeName="node-1")
        await made.endpoint("b", nodeName="node-2")
        with pod() as client:
            answer = await made.request(client, labels={"nodeName": "node-2"})
            assert answer.network_service_endpoint_name == "b"
            with pytest.raises(
                NextHopError, match=r"no endpoint of the network service 'web' for these labels.*node-3"
            ):
                await made.request(client, 1, labels={"nodeName": "node-3"})
            await made.close(answer)


async def test_an_endpoint_that_does_not_answer_is_passed_over(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        made.known("a-gone", f"unix://{tmp_path}/gone.sock")
        made.known("b-far", "tcp://127.0.0.1:9")
        made.known("c-nowhere", "")
        await made.endpoint("nse")
        with pod() as client:
            answer = await made.request(client)
            assert answer.network_service_endpoint_name == "nse"
            assert names(answer.path) == ["nsc", "nsmgr", "fwd", "nse"]
            await made.close(answer)


async def test_when_all_candidates_fail_the_caller_is_told_why_each_did(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        made.known("gone", f"unix://{tmp_path}/gone.sock")
        made.known("far", "tcp://127.0.0.1:9")
        with pod() as client:
            with pytest.raises(NextHopError) as caught:
                await made.request(client)
            told = str(caught.value)
            assert "all 2 endpoints that were tried for 'web' failed" in told
            assert "gone: dial" in told
            assert "far: no REMOTE mechanism" in told
            assert links(client) == []


@pytest.mark.parametrize(
    ("registered", "fields", "says"),
    [
        ([], {}, "network service 'web' is not registered"),
        ([SERVICE], {}, "no endpoint of the network service 'web'"),
        ([SERVICE], {"network_service_endpoint_name": "x"}, "endpoint 'x' is not registered"),
        ([SERVICE], {"payload": "IP"}, "network service 'web' with payload IP is not registered"),
    ],
)
async def test_what_is_not_registered_is_named(
    tmp_path: Path, registered: Sequence[str], fields: dict[str, str], says: str
) -> None:
    async with mesh(tmp_path) as made:
        if registered:
            made.service()
        with pod() as client, pytest.raises(NextHopError, match=says) as caught:
            await made.request(client, **fields)
        assert caught.value.status == "NOT_FOUND"


async def test_reselecting_leaves_the_endpoint_and_takes_the_next(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        first, second = await made.endpoint("a"), await made.endpoint("b")
        with pod() as client:
            answer = await made.request(client)
            assert (len(first), len(second)) == (1, 0)
            answer.state = RESELECT_REQUESTED
            answer.network_service_endpoint_name = ""
            answer.ClearField("mechanism")
            del answer.context.ip_context.src_ip_addrs[:]
            request = NetworkServiceRequest(connection=answer, mechanism_preferences=[kernel(client, "nsm-0")])
            answer = await made.again(request)
            assert answer.network_service_endpoint_name == "b"
            assert (len(first), len(second)) == (0, 1)
            assert await ping(client, answer.context.ip_context.dst_ip_addrs[0]) == 3
            await made.close(answer)
            assert len(second) == 0


async def test_an_endpoint_that_is_registered_anew_elsewhere_is_followed_by_a_refresh(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        await made.endpoint("nse")
        with pod() as client:
            answer = await made.request(client)
            other = await made.endpoint("other")
            made.known("nse", f"unix://{tmp_path}/other.sock")
            answer = await made.again(answer)
            assert len(other) == 1
            assert len(made.endpoints["nse"]) == 0, "the former one was left"
            await made.close(answer)
            assert len(other) == 0


async def test_20_clients_at_once_share_two_endpoints_evenly(tmp_path: Path) -> None:
    async with mesh(tmp_path) as made:
        made.service()
        a, b = await made.endpoint("a"), await made.endpoint("b")
        with pod() as client:
            answers = await asyncio.gather(*(made.request(client, number) for number in range(20)))
            assert (len(a), len(b)) == (10, 10)
            await asyncio.gather(*(made.close(each) for each in answers))
            assert (len(a), len(b)) == (0, 0)
