"""What carries frames without the forwarder's workers does so while it stands still, and after it was killed."""

import asyncio
import re
import signal
import socket
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress

import pytest

from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.clock import SystemClock
from forwarder.dataplane import MemifPortSpec, Role
from forwarder.mesh.endpoint import Endpoint, assigns, kernel_end
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.mesh.memif_app import memif_host
from forwarder.mesh.responder import Host
from forwarder.rpc import NextHop, dial, monitor_connection, network_service, serve
from tests.interop.test_testpmd_request import ENDPOINT_SOCKET, frames, listens_in, started
from tests.support.blackout import blackout
from tests.support.connections import connection
from tests.support.domain import PREFIXES, kernel, links, memif, pod, until
from tests.support.netns import Netns as Shell
from tests.support.programs import running

LIFETIME_S = 600
SETTINGS = {"veth": "kernel", "redirect": "redirect", "userspace": "userspace"}
"""What asks for a datapath."""


class Mesh:
    """An endpoint here, and a forwarder that is a process of its own."""

    def __init__(self, directory, endpoint):
        self.endpoint = endpoint
        self._url = f"unix://{directory}/fwd.sock"
        self._options = ("--insecure", "--listen-on", self._url, "--next-hop", f"unix://{directory}/nse.sock")

    def forwarder(self, *options):
        """Runs the forwarder for as long as the context lasts."""
        return running("forwarder", *self._options, *options)

    async def request(self, given, *preferences):
        async with dial(self._url) as channel:
            request = NetworkServiceRequest(connection=given, mechanism_preferences=preferences)
            return await NextHop(channel).request(request, timeout_s=10)

    async def close(self, given):
        async with dial(self._url) as channel:
            await NextHop(channel).close(given, timeout_s=10)


def first():
    """A client's first Request."""
    return connection("nsc:nsc-0", expires=SystemClock().now() + LIFETIME_S, network_service="web")


@asynccontextmanager
async def mesh(directory, mechanism, extension, payload="ETHERNET"):
    endpoint = Endpoint(
        name="nse",
        services=["web"],
        mechanisms={mechanism: extension},
        extensions=[assigns(PointToPointIpam(PREFIXES))],
        payload=payload,
    )
    async with (
        endpoint,
        serve([network_service(endpoint), monitor_connection(endpoint)], [f"unix://{directory}/nse.sock"]),
    ):
        yield Mesh(directory, endpoint)


def identity(netns):
    """Everything that a pod sees of its interfaces, without what ages and what IPv6 does by itself."""
    asked = "ip -d addr; ip route show table all; ip -6 route show table all; ip rule; ip neigh show nud permanent"
    told = Shell(netns.fileno()).run("sh", "-c", asked)
    lines = told.stdout.splitlines()
    # The kernel's own address comes late, and it tells of a link's carrier up to a second late.
    return [re.sub(r"<\S+>|state \S+|linkdown", "", each) for each in lines if not re.search("fe80:|ff00:|_lft", each)]


@pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
@pytest.mark.parametrize("datapath", ["veth", "redirect"])
async def test_a_forwarder_that_stands_still_stops_no_kernel_vwire(tmp_path, datapath, payload):
    """S-B01: A7 = 0 lost."""
    with ExitStack() as stack:
        near, far = (stack.enter_context(pod()) for _ in range(2))
        async with mesh(tmp_path, "KERNEL", kernel_end(far), payload) as nodes:
            with nodes.forwarder("--default-payload", payload, "--datapath", SETTINGS[datapath]) as forwarder:
                forwarder.wait_for("serving, ")
                answer = await nodes.request(first(), kernel(near))
                forwarder.wait_for(f"carried by datapath {datapath}")
                ip = answer.context.ip_context
                forwarder.send(signal.SIGSTOP)
                for family in (0, 1):
                    async with blackout(
                        Shell(near.fileno()), Shell(far.fileno()), ip.src_ip_addrs[family], ip.dst_ip_addrs[family]
                    ) as report:
                        await asyncio.sleep(0.5)
                    assert report.nothing_lost, report
                forwarder.send(signal.SIGCONT)
                await nodes.close(answer)
                assert links(near) == links(far) == []


async def test_a_forwarder_that_stands_still_stops_no_direct_memif(tmp_path):
    """S-B02: our application, and testpmd as the endpoint's."""
    with pod() as near, pod() as far:
        async with (
            mesh(tmp_path, "MEMIF", listens_in(Shell(far.fileno()))) as nodes,
            started(f"role=server,socket={ENDPOINT_SOCKET[1:]}", Shell(far.fileno())) as testpmd,
        ):
            with nodes.forwarder() as forwarder:
                forwarder.wait_for("serving, ")
                answer = await nodes.request(first(), memif(near))
                forwarder.wait_for("carried by datapath memif")
                spec = MemifPortSpec(
                    role=Role.CLIENT, address=answer.mechanism.parameters["socketfile"], netns=near.fileno()
                )
                async with memif_host(spec, Host.of(b"", [])) as application:
                    got = []
                    application.received = got.append
                    async with asyncio.timeout(10):
                        await application.port.wait_connected()
                    await asyncio.to_thread(testpmd.wait_link)
                    forwarder.send(signal.SIGSTOP)
                    sent = frames(300)
                    for at in range(0, 300, 10):
                        assert application.send(sent[at : at + 10]) == 10
                        await until(lambda at=at: len(got) >= at + 10)
                    assert got == sent
                    forwarder.send(signal.SIGCONT)
                    await asyncio.to_thread(testpmd.command, "stop")
                await nodes.close(answer)


@pytest.mark.parametrize(
    ("datapath", "payload", "end"),
    [
        ("veth", "ETHERNET", signal.SIGKILL),
        ("veth", "IP", signal.SIGTERM),
        ("redirect", "ETHERNET", signal.SIGTERM),
        ("redirect", "IP", signal.SIGKILL),
        ("userspace", "ETHERNET", signal.SIGKILL),
        ("userspace", "IP", signal.SIGTERM),
    ],
)
async def test_the_kernel_vwire_of_a_forwarder_that_ended_is_taken_over_by_the_next(tmp_path, datapath, payload, end):
    """A3: same interfaces. A7 = 0 lost where the forwarder was not in the path."""
    options = ("--default-payload", payload, "--datapath", SETTINGS[datapath])
    with ExitStack() as stack:
        near, far = (stack.enter_context(pod()) for _ in range(2))
        async with mesh(tmp_path, "KERNEL", kernel_end(far), payload) as nodes:
            with nodes.forwarder(*options) as killed:
                killed.wait_for("serving, ")
                answer = await nodes.request(full(first()), kernel(near))
                before = identity(near), identity(far)
                ip = answer.context.ip_context
                pods = Shell(near.fileno()), Shell(far.fileno())
                addresses = ip.src_ip_addrs[0], ip.dst_ip_addrs[0]
                with pods[0].call(watch_links) as near_events, pods[1].call(watch_links) as far_events:
                    async with blackout(*pods, *addresses) if datapath != "userspace" else nullcontext() as report:
                        await asyncio.to_thread(killed.end, end)
                        assert len(nodes.endpoint) == 1
                        forwarder = stack.enter_context(nodes.forwarder(*options))
                        await asyncio.to_thread(forwarder.wait_for, "serving, ")
                        for _ in range(3):
                            answer = await nodes.request(copy(answer))
                    assert links_changed(near_events) == links_changed(far_events) == 0
                assert report is None or report.nothing_lost, report
                forwarder.wait_for("taken over as it is")
                assert (identity(near), identity(far)) == before
                async with blackout(*pods, *addresses) as report:
                    await asyncio.sleep(0.2)
                assert report.nothing_lost, report
                await nodes.close(answer)
                assert links(near) == links(far) == []
                assert "ipproto udp" not in Shell(near.fileno()).run("ip", "rule").stdout
                assert len(nodes.endpoint) == 0


def full(given):
    """A Request with everything that hangs on an interface."""
    context = given.context.ip_context
    context.src_routes.add(prefix="10.10.0.0/16")
    context.ip_neighbors.add(ip="172.16.9.9", hardware_address="02:00:00:00:00:99")
    policy = context.policies.add(proto="17", dst_port="53")
    setattr(policy, "from", "172.16.0.0/16")
    policy.routes.add(prefix="10.30.0.0/16")
    return given


def watch_links():
    """Subscribes to what happens to links of the thread's namespace."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    made.bind((0, 0x1))
    return made


def links_changed(events):
    """Counts the events."""
    count = 0
    with suppress(BlockingIOError):
        while events.recv(1 << 16):
            count += 1
    return count


async def test_a_forwarder_that_is_told_to_keep_nothing_closes_its_vwires_when_it_ends(tmp_path):
    with pod() as near, pod() as far:
        async with mesh(tmp_path, "KERNEL", kernel_end(far)) as nodes:
            with nodes.forwarder("--keep-vwires", "false") as forwarder:
                forwarder.wait_for("serving, ")
                await nodes.request(first(), kernel(near))
                assert await asyncio.to_thread(forwarder.end) == 0
            assert links(near) == links(far) == []
            assert len(nodes.endpoint) == 0


async def test_what_a_killed_forwarder_left_goes_when_nobody_asks_for_it_and_nothing_of_another_forwarder_does(
    tmp_path,
):
    """A4, with two forwarders on one node."""
    with ExitStack() as stack:
        near, far, other_near, other_far = (stack.enter_context(pod()) for _ in range(4))
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        async with (
            mesh(tmp_path / "one", "KERNEL", kernel_end(far)) as nodes,
            mesh(tmp_path / "two", "KERNEL", kernel_end(other_far)) as others,
        ):
            other = stack.enter_context(others.forwarder("--max-token-lifetime", "500ms"))
            other.wait_for("serving, ")
            answer = await others.request(first(), kernel(other_near))
            ip = answer.context.ip_context
            with nodes.forwarder() as killed:
                killed.wait_for("serving, ")
                for number, datapath in enumerate(SETTINGS.values()):
                    given = connection(f"nsc:nsc-{number}", expires=SystemClock().now() + LIFETIME_S)
                    given.network_service, given.labels["datapath"] = "web", datapath
                    await nodes.request(full(given), kernel(near, f"nsm-{number}"))
                killed.end(signal.SIGKILL)
            pods = Shell(other_near.fileno()), Shell(other_far.fileno())
            async with blackout(*pods, ip.src_ip_addrs[0], ip.dst_ip_addrs[0]) as report:
                forwarder = stack.enter_context(nodes.forwarder("--max-token-lifetime", "500ms"))
                await asyncio.to_thread(forwarder.wait_for, "serving, ")
                await until(lambda: links(near) == links(far) == [], within_s=60)
            assert report.nothing_lost, report
            assert "ipproto udp" not in Shell(near.fileno()).run("ip", "rule").stdout
            assert "nobody asked for it" in forwarder.output
            assert "removed" not in other.output
            await others.close(answer)
