"""An endpoint and an application over memif, without a forwarder between them."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from forwarder.api.nsurl import NetworkServiceURL
from forwarder.dataplane import MemifPortSpec, Mode, Role
from forwarder.errors import ConfigError
from forwarder.mesh.client import Client
from forwarder.mesh.endpoint import Endpoint, assigns
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.mesh.memif_app import Pinger, memif_end, memif_host
from forwarder.mesh.responder import Host, mac_of
from forwarder.netns import Netns
from forwarder.rpc import monitor_connection, network_service, serve

PREFIXES = [["172.16.0.0/24"], ["fd00::/64"]]


@asynccontextmanager
async def memif_vwire(tmp_path, netns, payload):
    endpoint = Endpoint(
        name="nse",
        services=["echo"],
        payload=payload,
        mechanisms={"MEMIF": memif_end(netns)},
        extensions=[assigns(PointToPointIpam(PREFIXES))],
    )
    url = f"unix://{tmp_path}/nse.sock"
    async with endpoint, serve([network_service(endpoint), monitor_connection(endpoint)], [url]):
        client = Client(name="nsc", connect_to=url, netns=netns)
        async with client.vwire(NetworkServiceURL.parse("memif://echo"), 0) as vwire:
            yield vwire


@asynccontextmanager
async def pinger(vwire, netns, payload, family):
    source, target = vwire.addresses[family], vwire.peers[family]
    spec = MemifPortSpec(role=Role.CLIENT, address=vwire.socket, netns=netns.fileno(), mode=Mode[payload])
    async with memif_host(spec, Host.of(mac_of("app"), [source])) as application:
        asking = Pinger(application, source=source, target=target)
        async with asyncio.timeout(10):
            await application.port.wait_connected()
            await asking.resolve()
        yield asking


@pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
async def test_every_ping_is_answered(tmp_path, payload, family):
    with Netns.create() as netns:
        async with memif_vwire(tmp_path, netns, payload) as vwire, pinger(vwire, netns, payload, family) as asking:
            for sequence, size in enumerate([0, 1, 8, 56, 1472, 2000, 4096, 8900]):
                assert await asking.ping(sequence, size=size, timeout_s=5) is not None
            assert (asking.report.sent, asking.report.received) == (8, 8)


async def test_many_pings_at_a_time_are_all_answered(tmp_path):
    with Netns.create() as netns:
        async with memif_vwire(tmp_path, netns, "ETHERNET") as vwire, pinger(vwire, netns, "ETHERNET", 0) as asking:
            for first in range(0, 2000, 500):
                pings = (asking.ping(sequence, size=64, timeout_s=10) for sequence in range(first, first + 500))
                assert None not in await asyncio.gather(*pings)


async def test_an_application_that_comes_back_is_answered_again(tmp_path):
    with Netns.create() as netns:
        async with memif_vwire(tmp_path, netns, "ETHERNET") as vwire:
            for _ in range(3):
                async with pinger(vwire, netns, "ETHERNET", 0) as asking:
                    assert await asking.ping(1, size=56, timeout_s=5) is not None


async def test_an_address_that_nobody_has_is_not_answered(tmp_path):
    with Netns.create() as netns:
        async with memif_vwire(tmp_path, netns, "IP") as vwire:
            spec = MemifPortSpec(role=Role.CLIENT, address=vwire.socket, netns=netns.fileno(), mode=Mode.IP)
            async with memif_host(spec, Host.of(b"", [])) as application:
                asking = Pinger(application, source=vwire.addresses[0], target="192.0.2.1")
                await application.port.wait_connected()
                assert await asking.ping(1, size=56, timeout_s=0.2) is None
                assert str(asking.report) == "1 packets transmitted, 0 received, 100% packet loss"


async def test_addresses_of_different_families_are_refused(tmp_path):
    spec = MemifPortSpec(role=Role.SERVER, address=f"{tmp_path}/memif.sock")
    async with memif_host(spec, Host.of(mac_of("x"), [])) as application:
        with pytest.raises(ConfigError, match="different families"):
            Pinger(application, source="10.0.0.1", target="fd00::1")
        with pytest.raises(ConfigError, match="does not appear to be"):
            Pinger(application, source="here", target="there")
