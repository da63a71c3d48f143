"""NSM's own programs around our forwarder: what they agree on, and what flows."""

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from forwarder.dataplane import MemifPortSpec, Mode, Role
from forwarder.mesh.memif_app import Pinger, memif_host
from forwarder.mesh.responder import Host, mac_of
from tests.support.blackout import blackout
from tests.support.netns import network_namespaces
from tests.support.nsm_go import check_path, end, kill, nsm_mesh, until

PREFIXES = {
    "IPv4": "172.16.1.100/31",
    "IPv6": "2001:db8::100/127",
    "dual": "[172.16.1.100/31],[2001:db8::100/127]",
}
ADDRESSES = {
    "IPv4": [("172.16.1.101", "172.16.1.100")],
    "IPv6": [("2001:db8::101", "2001:db8::100")],
    "dual": [("172.16.1.101", "172.16.1.100"), ("2001:db8::101", "2001:db8::100")],
}
"""Client's and endpoint's, by what the endpoint assigns from."""
SOURCE, TARGET = ADDRESSES["IPv4"][0]
PATH = ["nsc", "manager", "forwarder", "nse"]
WORKLOADS = ["registry", "manager", "forwarder", "nse", "nsc", "other"]
ENDPOINT_SOCKET = "@/memif/endpoint.sock"
SHORT = {"NSM_MAX_TOKEN_LIFETIME": "3s", "NSM_REQUEST_TIMEOUT": "1s"}
"""A connection expires as long before its token as its Request might have taken."""


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Authority, registry, manager, and our forwarder."""
    with nsm_mesh(tmp_path_factory.mktemp("node")) as mesh:
        mesh.authority(WORKLOADS)
        mesh.registry()
        mesh.manager()
        mesh.forwarder()
        yield mesh


@pytest.fixture
def pods():
    """Where the client is, and where the endpoint."""
    with network_namespaces(2) as pods:
        yield pods


def nothing_left(*pods):
    until(lambda: all(set(pod.links()) == {"lo"} for pod in pods), "nothing is left in the pods")


@asynccontextmanager
async def application(netns, socket, role, addresses, payload):
    """Whoever uses a memif end; without one, the kernel answers."""
    if socket is None:
        yield None
        return
    spec = MemifPortSpec(role=role, address=socket, netns=netns.fd, mode=Mode[payload], name=f"test {role.name}")
    async with memif_host(spec, Host.of(mac_of(role.name), addresses)) as host:
        yield host


async def pings(netns, host, source, target):
    """Sends five echo requests from a pod's kernel or its application, and wants five answers."""
    if host is None:
        await asyncio.to_thread(netns.run, "ping", "-c", "5", "-i", "0.05", "-W", "2", "-I", source, target)
        return
    pinger = Pinger(host, source=source, target=target)
    async with asyncio.timeout(10):
        await host.port.wait_connected()
        await pinger.resolve()
    for sequence in range(5):
        assert await pinger.ping(sequence, size=200, timeout_s=2) is not None


@pytest.mark.parametrize("family", ["IPv4", "IPv6", "dual"])
@pytest.mark.parametrize("payload", ["IP", "ETHERNET"])
@pytest.mark.parametrize("ends", ["kernel2kernel", "kernel2memif", "memif2kernel", "memif2memif"])
async def test_traffic_flows_between_the_pods(node, pods, ends, payload, family):
    near, far = pods
    near_kind, far_kind = ends.split("2")
    service = f"{ends}-{payload}-{family}".lower()
    async with AsyncExitStack() as stack:
        listens = ENDPOINT_SOCKET if far_kind == "memif" else None
        addresses = [target for _source, target in ADDRESSES[family]]
        await stack.enter_async_context(application(far, listens, Role.SERVER, addresses, payload))
        endpoint = node.endpoint(
            far,
            NSM_SERVICE_NAMES=service,
            NSM_PAYLOAD=payload,
            NSM_CIDR_PREFIX=PREFIXES[family],
            NSM_MECHANISMS=far_kind.upper(),
            NSM_MEMIF_SOCKET=ENDPOINT_SOCKET,
        )
        stack.callback(end, endpoint)
        client = node.client(near, f"{near_kind}://{service}/nsm-1")
        told = (await asyncio.to_thread(client.wait_event, "connected"))["connection"]
        check_path(told, PATH)
        assert told["payload"] == payload
        assert told["mechanism"]["type"] == near_kind.upper()
        assert told["network_service_endpoint_name"] == "nse"

        connects = told["mechanism"]["parameters"]["socketfile"] if near_kind == "memif" else None
        sources = [source for source, _target in ADDRESSES[family]]
        async with application(near, connects, Role.CLIENT, sources, payload) as host:
            for source, target in ADDRESSES[family]:
                await pings(near, host, source, target)
        assert endpoint.wait_event("connected")["connection"]["mechanism"]["type"] == far_kind.upper()

        await asyncio.to_thread(end, client)
        assert endpoint.wait_event("closed")
        nothing_left(near, far)


async def test_refreshes_lose_nothing(node, pods):
    near, far = pods
    lifetimes = 20 if os.environ.get("VWIRE_LONG") == "1" else 4
    endpoint = node.endpoint(far, NSM_SERVICE_NAMES="refreshed", NSM_CIDR_PREFIX=PREFIXES["IPv4"])
    client = node.client(near, "kernel://refreshed/nsm-1", **SHORT)
    await asyncio.to_thread(client.wait_event, "connected")
    before = near.links()["nsm-1"]
    async with blackout(near, far, SOURCE, TARGET) as report:
        await asyncio.sleep(lifetimes * 3)
    assert report.nothing_lost, report
    assert len(client.events("connected")) > 3 * lifetimes
    assert not client.events("refused")
    assert near.links()["nsm-1"]["ifindex"] == before["ifindex"]
    assert near.links()["nsm-1"]["address"] == before["address"]
    for peer in (client, endpoint):
        end(peer)
    nothing_left(near, far)


def test_a_client_that_is_gone_expires(node, pods):
    near, far = pods
    endpoint = node.endpoint(far, NSM_SERVICE_NAMES="expires", NSM_CIDR_PREFIX=PREFIXES["IPv4"])
    # The forwarder closes at once what belongs to a pod without any process.
    with near.process("sleep", "60"):
        client = node.client(near, "kernel://expires/nsm-1", **SHORT)
        client.wait_event("connected")
        kill(client)
        assert set(near.links()) == {"lo", "nsm-1"}
        endpoint.wait_event("closed")
    nothing_left(near, far)
    end(endpoint)


def test_two_hundred_clients_at_once(node, pods):
    near, far = pods
    count = 200
    endpoint = node.endpoint(far, NSM_SERVICE_NAMES="crowd", NSM_CIDR_PREFIX="172.20.0.0/16")
    urls = [f"kernel://crowd/c{number}" for number in range(count)]
    client = node.client(near, *urls, NSM_REQUEST_TIMEOUT="60s", NSM_LIVENESS_CHECK_ENABLED="false")
    until(
        lambda: len({each["connection"]["id"] for each in client.events("connected")}) == count,
        "all are connected",
        120,
    )
    assert set(near.links()) == {"lo", *(f"c{number}" for number in range(count))}
    for told in {each["connection"]["id"]: each["connection"] for each in client.events("connected")}.values():
        check_path(told, PATH)
    client.end(patience_s=120)
    until(lambda: len(endpoint.events("closed")) >= count, "all are closed")
    nothing_left(near, far)
    end(endpoint)
