"""Many clients of one endpoint, and many services for one client: all of them work, and all of them go."""

import asyncio
from contextlib import AsyncExitStack, ExitStack

from forwarder.api.nsurl import NetworkServiceURL
from forwarder.mesh.client import Client
from tests.support.domain import domain, kernel, links, memif, ping, pod, until

CLIENTS = 200
SERVICES = [f"web-{number}" for number in range(20)]


async def test_200_clients_of_one_endpoint_are_served_at_once_and_leave_nothing_when_they_all_close(tmp_path):
    """C-35: half with kernel interfaces, half with memif; all ask at the same time, and close at the same time."""
    async with domain(tmp_path, datapath="userspace") as mesh, mesh.hop() as hop:
        with ExitStack() as stack:
            pods = [stack.enter_context(pod()) for _ in range(CLIENTS)]
            requests = [
                mesh.request((memif if number % 2 else kernel)(netns), client=f"nsc-{number}", lifetime_s=600)
                for number, netns in enumerate(pods)
            ]
            answers = await asyncio.gather(*(hop.request(request, timeout_s=90) for request in requests))
            assert len({answer.context.ip_context.src_ip_addrs[0] for answer in answers}) == CLIENTS
            assert len(mesh.endpoint) == len(mesh.forwarder.statistics().connections) == CLIENTS
            assert len(links(mesh.endpoint_netns)) == CLIENTS
            assert all(links(netns) == ([] if number % 2 else ["nsm-1"]) for number, netns in enumerate(pods[:20]))
            for number in range(0, CLIENTS, 20):
                assert await ping(pods[number], answers[number].context.ip_context.dst_ip_addrs[0]) == 3
            await asyncio.gather(*(hop.close(answer, timeout_s=90) for answer in answers))
            assert links(mesh.endpoint_netns) == []
            assert all(links(netns) == [] for netns in pods[:20])
            assert mesh.forwarder.statistics().connections == ()
            await until(lambda: len(mesh.endpoint) == len(mesh.forwarder._namespaces) == 0)


async def test_one_client_has_vwires_to_20_services_at_once(tmp_path):
    """C-35."""
    async with domain(tmp_path, services=SERVICES) as mesh:
        with pod() as netns:
            client = Client(name="nsc", connect_to=mesh.url, netns=netns)
            async with AsyncExitStack() as stack:
                urls = [NetworkServiceURL.parse(f"kernel://{service}/nsm-{n}") for n, service in enumerate(SERVICES)]
                vwires = [stack.enter_async_context(client.vwire(url, n)) for n, url in enumerate(urls)]
                made = await asyncio.gather(*vwires)
                assert links(netns) == sorted(f"nsm-{number}" for number in range(len(SERVICES)))
                assert [vwire.connection.network_service for vwire in made] == SERVICES
                answers = await asyncio.gather(*(ping(netns, vwire.peers[0]) for vwire in made))
                assert answers == [3] * len(SERVICES)
            assert links(netns) == links(mesh.endpoint_netns) == []
            assert len(mesh.endpoint) == 0
