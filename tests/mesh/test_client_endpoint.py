"""Client and endpoint talk over a real socket, without a forwarder between them."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.connectioncontext_pb2 import DNSConfig
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.clock import SystemClock
from forwarder.errors import InvalidRequest, NextHopError, RequestError
from forwarder.mesh.client import Client, describe
from forwarder.mesh.endpoint import Endpoint, assigns, kernel_end, tells_dns, unsigned_tokens
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.netns import Netns
from forwarder.rpc import monitor_connection, network_service, serve


@pytest.fixture
def netns():
    with Netns.current() as current:
        yield current


@pytest.fixture
async def mesh(tmp_path, netns):
    @asynccontextmanager
    async def start(*, prefix="172.16.0.0/30", extensions=(), **options):
        endpoint = Endpoint(
            name="nse",
            services=["web"],
            mechanisms={"KERNEL": kernel_end(netns)},
            extensions=[assigns(PointToPointIpam([[prefix]])), *extensions],
            **options,
        )
        url = f"unix://{tmp_path}/nse.sock"
        async with endpoint, serve([network_service(endpoint), monitor_connection(endpoint)], [url]):
            yield endpoint, url

    return start


def client(url, netns, name="nsc", **options):
    return Client(name=name, connect_to=url, netns=netns, **options)


WEB = NetworkServiceURL.parse("kernel://web/nsm-1?app=blue")


async def test_a_request_gets_addresses_a_name_and_a_namespace(mesh, netns):
    async with mesh() as (endpoint, url), client(url, netns, labels={"nodeName": "n1"}).vwire(WEB, 0) as vwire:
        assert (vwire.name, vwire.interface, vwire.state) == ("nsc-0", "nsm-1", "UP")
        assert vwire.addresses == ["172.16.0.1/32"]
        assert vwire.peers == ["172.16.0.0/32"]
        connection = vwire.connection
        assert connection.labels == {"app": "blue", "nodeName": "n1"}
        assert connection.payload == "ETHERNET"
        assert connection.network_service_endpoint_name == "nse"
        assert [segment.name for segment in connection.path.path_segments] == ["nsc", "nse"]
        assert connection.path.index == 0
        assert all(segment.token and segment.HasField("expires") for segment in connection.path.path_segments)
        assert "nsm-1 to web (nse), 172.16.0.1/32, peer 172.16.0.0/32" in describe(vwire)
        assert len(endpoint) == 1
    assert len(endpoint) == 0


async def test_an_address_is_free_again_after_close(mesh, netns):
    async with mesh(prefix="172.16.0.0/31") as (_, url):
        for _ in range(3):
            async with client(url, netns).vwire(WEB, 0) as vwire:
                assert vwire.addresses == ["172.16.0.1/32"]


async def test_a_second_client_gets_another_pair_and_a_third_none(mesh, netns):
    async with (
        mesh() as (endpoint, url),
        client(url, netns, "a").vwire(WEB, 0) as a,
        client(url, netns, "b").vwire(WEB, 0) as b,
    ):
        assert set(a.addresses + a.peers).isdisjoint(b.addresses + b.peers)
        with pytest.raises(NextHopError, match="none are free"):
            async with client(url, netns, "c").vwire(WEB, 0):
                pass
        assert len(endpoint) == 2


@pytest.mark.parametrize(
    ("url", "status", "told"),
    [
        ("kernel://other", "INVALID_ARGUMENT", "does not serve 'other'"),
        ("memif://web", "FAILED_PRECONDITION", "cannot serve mechanism MEMIF"),
    ],
)
async def test_a_refusal_says_why_and_leaves_nothing(mesh, netns, url, status, told):
    async with mesh() as (endpoint, at):
        with pytest.raises(NextHopError, match=told) as caught:
            async with client(at, netns).vwire(NetworkServiceURL.parse(url), 0):
                pass
        assert caught.value.status == status
        assert len(endpoint) == 0


async def test_a_mechanism_that_this_client_does_not_know_is_refused_before_anything_is_sent(netns):
    with pytest.raises(InvalidRequest, match="mechanism VFIO is not known"):
        async with client("unix:///nowhere.sock", netns).vwire(NetworkServiceURL.parse("vfio://web"), 0):
            pass


async def test_a_name_too_long_for_an_interface_is_refused_before_anything_is_sent(netns):
    too_long = NetworkServiceURL.parse("kernel://web/an-interface-name-that-is-too-long")
    with pytest.raises(InvalidRequest, match="longer than 15 bytes"):
        async with client("unix:///nowhere.sock", netns).vwire(too_long, 0):
            pass


async def test_a_first_hop_that_is_not_there_is_told(tmp_path, netns):
    with pytest.raises(NextHopError, match="No such file") as caught:
        async with client(f"unix://{tmp_path}/none.sock", netns, dial_timeout_s=0.2).vwire(WEB, 0):
            pass
    assert caught.value.status == "UNAVAILABLE"


async def test_a_vwire_outlives_its_tokens_because_it_is_refreshed(mesh, netns):
    tokens = unsigned_tokens("nsc", SystemClock(), 1.5)
    async with (
        mesh() as (endpoint, url),
        client(url, netns, request_timeout_s=0.5, tokens=tokens).vwire(WEB, 0) as vwire,
    ):
        first = vwire.connection.path.path_segments[0].expires.ToNanoseconds()
        async with asyncio.timeout(20):
            while vwire.connection.path.path_segments[0].expires.ToNanoseconds() <= first + 1_500_000_000:
                vwire.changed.clear()
                await vwire.changed.wait()
        assert (vwire.addresses, vwire.interface, len(endpoint)) == (["172.16.0.1/32"], "nsm-1", 1)


async def test_a_vwire_that_nobody_refreshes_ends(mesh, netns, tmp_path):
    closed = asyncio.Event()

    @asynccontextmanager
    async def tells(_connection):
        yield None
        closed.set()

    async with mesh(extensions=[tells]) as (endpoint, url):
        asker = client(url, netns, request_timeout_s=0.3, tokens=unsigned_tokens("nsc", SystemClock(), 0.6))
        await asker._request(asker._first_request(WEB, 0))
        assert len(endpoint) == 1
        async with asyncio.timeout(5):
            await closed.wait()
        async with client(url, netns).vwire(WEB, 0) as again:  # waits for the end of the first
            assert again.addresses == ["172.16.0.1/32"]


async def test_dns_servers_are_told_once(mesh, netns):
    config = DNSConfig(dns_server_ips=["10.0.0.53"], search_domains=["example.org"])
    async with mesh(extensions=[tells_dns([config])]) as (_, url):
        asker = client(url, netns)
        async with asker.vwire(WEB, 0) as vwire:
            assert list(vwire.connection.context.dns_context.configs) == [config]


async def test_an_extension_that_fails_undoes_those_before_it(mesh, netns):
    @asynccontextmanager
    async def fails(_connection):
        raise RequestError("no more room")
        yield

    async with mesh(prefix="172.16.0.0/31", extensions=[fails]) as (endpoint, url):
        for _ in range(2):
            with pytest.raises(NextHopError, match="no more room"):
                async with client(url, netns).vwire(WEB, 0):
                    pass
        assert len(endpoint) == 0


async def test_the_name_that_the_endpoint_chose_stays(mesh, netns):
    async with mesh() as (_, url):
        asker = client(url, netns)
        request = asker._first_request(WEB, 0)
        request.mechanism_preferences[0].parameters["name"] = ""
        first = await asker._request(request)
        name = first.mechanism.parameters["name"]
        assert 0 < len(name) <= 15
        request.connection.CopyFrom(first)
        request.connection.mechanism.parameters["name"] = ""
        second = await asker._request(request)
        assert second.mechanism.parameters["name"] == name
        await asker._close(second)


async def test_closing_what_is_unknown_is_fine(mesh, netns):
    async with mesh() as (_, url):
        connection = Connection(id="x", network_service="web", mechanism=Mechanism(type="KERNEL"))
        connection.path.path_segments.add(name="nsc", id="x")
        await client(url, netns)._close(connection)


@pytest.mark.parametrize("turns", range(12))
async def test_a_server_cancelled_while_it_starts_leaves_nothing(tmp_path, turns):
    async def served():
        async with serve([], [f"unix://{tmp_path}/nse.sock"]):
            await asyncio.Event().wait()

    task = asyncio.create_task(served())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
async def test_a_client_cancelled_at_any_time_leaves_nothing_and_the_next_works(mesh, netns, turns):
    async with mesh(prefix="172.16.0.0/31") as (endpoint, url):

        async def connected():
            async with client(url, netns).vwire(WEB, 0):
                await asyncio.Event().wait()

        task = asyncio.create_task(connected())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with client(url, netns, "next").vwire(WEB, 0) as vwire:
            assert vwire.addresses == ["172.16.0.1/32"]
            assert len(endpoint) == 1
