"""NSM's own programs around our forwarder: what they agree on, and what flows."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from forwarder.dataplane import MemifPortSpec, Mode, Role
from forwarder.mesh.memif_app import Pinger, memif_host
from forwarder.mesh.responder import Host, mac_of
from tests.support.netns import network_namespaces
from tests.support.nsm_go import check_path, end, nsm_mesh, until

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
PATH = ["nsc", "manager", "forwarder", "nse"]
WORKLOADS = ["registry", "manager", "forwarder", "nse", "nsc"]
ENDPOINT_SOCKET = "@/memif/endpoint.sock"


@pytest.fixture
def mesh(tmp_path):
    """Authority, registry and manager."""
    with nsm_mesh(tmp_path) as mesh:
        mesh.authority(WORKLOADS)
        mesh.registry()
        mesh.manager()
        yield mesh


@pytest.fixture
def pods():
    """Where the client is, and where the endpoint."""
    with network_namespaces(2) as pods:
        yield pods


def test_a_service_that_is_registered_is_found_and_lacks_only_a_forwarder(mesh, pods):
    near, far = pods
    endpoint = mesh.endpoint(far)
    registered = endpoint.wait_event("registered")["endpoint"]
    assert registered["path_ids"] == [f"spiffe://vwire.test/{name}" for name in ("nse", "manager", "registry")]
    client = mesh.client(near, "kernel://icmp-responder/nsm-1", NSM_ONCE="true", NSM_REQUEST_TIMEOUT="3s")
    assert "no candidates found" in client.wait_event("refused")["error"]


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
async def test_traffic_flows_between_the_pods(mesh, pods, ends, payload, family):
    near, far = pods
    near_kind, far_kind = ends.split("2")
    async with AsyncExitStack() as stack:
        listens = ENDPOINT_SOCKET if far_kind == "memif" else None
        addresses = [target for _source, target in ADDRESSES[family]]
        await stack.enter_async_context(application(far, listens, Role.SERVER, addresses, payload))
        endpoint = await asyncio.to_thread(
            mesh.endpoint, far, NSM_PAYLOAD=payload, NSM_CIDR_PREFIX=PREFIXES[family], NSM_MEMIF_SOCKET=ENDPOINT_SOCKET
        )
        priority = {"NSM_MECHANISM_PRIORITY": far_kind}
        await asyncio.to_thread(mesh.forwarder, **priority)
        client = mesh.client(near, f"{near_kind}://icmp-responder/nsm-1")
        told = (await asyncio.to_thread(client.wait_event, "connected"))["connection"]
        check_path(told, PATH)
        assert told["payload"] == payload
        assert told["mechanism"]["type"] == near_kind.upper()
        assert told["network_service_endpoint_name"] == "nse"

        connects = told["mechanism"]["parameters"]["socketfile"] if near_kind == "memif" else None
        sources = [source for source, _target in ADDRESSES[family]]
        host = await stack.enter_async_context(application(near, connects, Role.CLIENT, sources, payload))
        for source, target in ADDRESSES[family]:
            await pings(near, host, source, target)
        assert endpoint.wait_event("connected")["connection"]["mechanism"]["type"] == far_kind.upper()

        await stack.aclose()
        await asyncio.to_thread(end, client)
        assert endpoint.wait_event("closed")
        until(lambda: set(near.links()) == {"lo"} == set(far.links()), "nothing is left in the pods")
