"""Every datapath gives the pods the same, counts what it can, and can be changed for another."""

import asyncio
import re
import socket
import subprocess
from contextlib import ExitStack

import pytest

from forwarder.api.connection_pb2 import RESELECT_REQUESTED
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.dataplane import Dataplane
from forwarder.errors import NextHopError
from forwarder.mesh.endpoint import kernel_end
from tests.support.blackout import blackout
from tests.support.domain import domain, kernel, links, memif, ping, pod, pods_watched, until
from tests.support.netns import Netns as Shell

LOOK = """
ip -o link show dev {name}; ip -o -d addr show dev {name}
for v in 4 6; do
    ip -$v route show table all dev {name}; ip -$v rule show; ip -$v neigh show nud permanent dev {name}
done
cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/conf/{name}/route_localnet
"""
OWN = re.compile(
    r"^\d+: |@if\d+|@\S+:|link-netns\S* \S+|link/ether \S+|lladdr \S+|(numtxqueues|numrxqueues|parentbus|parentdev) \S+"
    r"|fe80::\S+|(valid_lft|preferred_lft|expires|qdisc|state) \S+|local fe80\S+|promiscuity \d+|allmulti \d+",
    re.MULTILINE,
)
"""What is another's in every pair: indices, made-up hardware addresses and what follows from them."""


def again(answer, **labels):
    changed = copy(answer)
    changed.labels.update(labels)
    return NetworkServiceRequest(connection=changed)


def look(netns, name):
    return OWN.sub("", Shell(netns.fileno()).run("sh", "-c", LOOK.format(name=name)).stdout)


def full_request(mesh, netns):
    """Asks for everything that a kernel interface can have."""
    request = mesh.request(kernel(netns))
    context = request.connection.context
    context.MTU = 1400
    context.ethernet_context.src_mac, context.ethernet_context.dst_mac = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
    context.ip_context.src_routes.add(prefix="10.10.0.0/16")
    context.ip_context.dst_routes.add(prefix="10.20.0.0/16")
    context.ip_context.ip_neighbors.add(ip="172.16.9.9", hardware_address="02:00:00:00:00:99")
    policy = context.ip_context.policies.add(proto="17", dst_port="53")
    setattr(policy, "from", "172.16.0.0/16")
    policy.routes.add(prefix="10.30.0.0/16")
    return request


@pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
async def test_without_the_workers_both_pods_see_the_same_as_with_them(tmp_path, payload):
    seen = {}
    macs = {}
    for datapath in ("userspace", "kernel", "redirect"):
        (tmp_path / datapath).mkdir()
        async with domain(tmp_path / datapath, payload=payload, datapath=datapath) as mesh:
            with pod() as netns:
                async with mesh.hop() as hop:
                    answer = await hop.request(full_request(mesh, netns), timeout_s=10)
                    (theirs,) = links(mesh.endpoint_netns)
                    seen[datapath] = look(netns, "nsm-1"), look(mesh.endpoint_netns, theirs).replace(theirs, "theirs")
                    macs[datapath] = (
                        Shell(netns.fileno()).links()["nsm-1"]["address"], mesh.endpoint_pod.links()[theirs]["address"]
                    )  # fmt: skip
                    for family in (0, 1):
                        assert await ping(netns, answer.context.ip_context.dst_ip_addrs[family]) == 3
                    await hop.close(answer, timeout_s=10)
    for part in ("alias server-nsc-0", "mtu 1400", "172.16.0.1/32", "10.10.0.0/16", "10.30.0.0/16", "ipproto udp"):
        assert part in seen["kernel"][0]
    assert "alias client-nsc-0" in seen["kernel"][1]
    assert set(macs.values()) == {("02:00:00:00:00:0a", "02:00:00:00:00:0b")}
    assert seen["kernel"] == seen["userspace"] == seen["redirect"]


@pytest.mark.parametrize(
    ("datapath", "workers"), [("userspace", 1), ("userspace", 2), ("userspace", 3), ("kernel", 1), ("redirect", 1)]
)
async def test_every_frame_is_counted_and_told_in_the_path(tmp_path, datapath, workers):
    """A6: as many as the pods' own interfaces say."""
    async with domain(tmp_path, datapath=datapath, dataplane=Dataplane(workers=workers)) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                ip = answer.context.ip_context
                pods = Shell(netns.fileno()), mesh.endpoint_pod
                async with blackout(*pods, ip.src_ip_addrs[0], ip.dst_ip_addrs[0]) as report:
                    await asyncio.sleep(0.2)
                assert report.nothing_lost
                (status,) = mesh.forwarder.statistics().connections
                for flow, sent in ((status.vwire.a_to_b, report.forth.sent), (status.vwire.b_to_a, report.back.sent)):
                    assert flow.out_frames >= sent
                    assert flow.in_frames == flow.out_frames + flow.dropped_frames
                if datapath != "userspace":

                    def same() -> bool:
                        """Not while a kernel says something by itself between the two looks."""
                        (status,) = mesh.forwarder.statistics().connections
                        told = pods[0].json("ip", "-j", "-s", "link", "show", "nsm-1")[0]["stats64"]
                        ours = status.vwire.a_to_b.out_frames, status.vwire.b_to_a.out_bytes
                        return ours == (told["tx"]["packets"], told["rx"]["bytes"])

                    await until(same)
                answer = await hop.request(again(answer), timeout_s=10)
                metrics = answer.path.path_segments[1].metrics
                assert int(metrics["server_rx_packets"]) >= report.forth.sent
                assert int(metrics["client_rx_packets"]) >= report.back.sent
                await hop.close(answer, timeout_s=10)


async def test_a_repeated_request_changes_from_one_datapath_to_another_and_back(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                names = {"userspace": "userspace", "kernel": "veth", "auto": "veth", "redirect": "redirect"}
                order = "userspace", "kernel", "userspace", "redirect", "kernel", "redirect", "userspace", "auto"
                for wanted in order:
                    answer = await hop.request(again(answer, datapath=wanted), timeout_s=10)
                    (status,) = mesh.forwarder.statistics().connections
                    assert (status.datapath, status.state) == (names[wanted], "UP")
                    assert links(netns) == ["nsm-1"]
                    assert len(links(mesh.endpoint_netns)) == 1
                    for family in (0, 1):
                        assert await ping(netns, answer.context.ip_context.dst_ip_addrs[family]) == 3
                await hop.close(answer, timeout_s=10)
                assert links(netns) == links(mesh.endpoint_netns) == []


async def test_applications_change_with_the_datapath_and_find_the_new_socket_in_the_answer(tmp_path):
    async with domain(tmp_path, endpoint="MEMIF") as mesh:
        with pod() as netns:
            async with mesh.vwire(netns, "memif") as vwire, mesh.hop() as hop:
                for wanted in ("userspace", "kernel", "userspace"):
                    answer = await hop.request(again(vwire.connection, datapath=wanted), timeout_s=10)
                    vwire.replace(answer)
                    async with mesh.application(vwire, netns) as pinger:
                        assert await pinger.ping(1, size=56, timeout_s=5) is not None


async def test_what_cannot_be_without_the_workers_is_refused_and_leaves_nothing(tmp_path):
    async with domain(tmp_path, endpoint="MEMIF") as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                for labels, status, says in (
                    ({"datapath": "kernel"}, "FAILED_PRECONDITION", "KERNEL to MEMIF cannot do without our workers"),
                    ({"datapath": "redirect"}, "FAILED_PRECONDITION", "KERNEL to MEMIF cannot do without our workers"),
                    ({"datapath": "warp"}, "INVALID_ARGUMENT", "label datapath='warp' names no datapath"),
                ):
                    with pytest.raises(NextHopError, match=says) as caught:
                        await hop.request(mesh.request(kernel(netns), labels=labels), timeout_s=10)
                    assert caught.value.status == status
                    assert links(netns) == links(mesh.endpoint_netns) == []
                    assert len(mesh.endpoint) == 0
                answer = await hop.request(
                    mesh.request(kernel(netns), memif(netns), labels={"datapath": "kernel"}), timeout_s=10
                )
                assert answer.mechanism.type == "MEMIF"
                await hop.close(answer, timeout_s=10)


@pytest.mark.parametrize(
    ("datapath", "acts"),
    [("kernel", ["delete", "set"]), ("redirect", ["delete"]), ("userspace", ["delete"])],
)
async def test_an_endpoint_pods_interface_that_is_deleted_or_moved_makes_the_connection_down(tmp_path, datapath, acts):
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as netns, pod() as elsewhere:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                moves = {"delete": ("delete",), "set": ("set", "netns", f"/proc/self/fd/{elsewhere.fileno()}")}
                for act in (moves[each] for each in acts):
                    (theirs,) = links(mesh.endpoint_netns)
                    _ip_link(mesh.endpoint_pod, theirs, *act, keep=elsewhere.fileno())
                    async with asyncio.timeout(5):
                        while mesh.forwarder.statistics().connections[0].state != "DOWN":  # noqa: ASYNC110
                            await asyncio.sleep(0.01)
                    answer = await hop.request(again(answer), timeout_s=10)
                    assert mesh.forwarder.statistics().connections[0].state == "UP"
                    assert await ping(netns, answer.context.ip_context.dst_ip_addrs[0]) == 3
                await hop.close(answer, timeout_s=10)
                assert links(netns) == links(mesh.endpoint_netns) == links(elsewhere) == []


def _ip_link(netns, name, *act, keep):
    verb, *rest = act
    command = ["ip", "link", verb, name] if not rest else ["ip", "link", verb, "dev", name, *rest]
    subprocess.run(netns.argv(*command), pass_fds=(netns.fd, keep), check=True)


def in_turn(*netns):
    """An endpoint's end in one pod for its first connection, in another for the next."""
    ends = [kernel_end(each) for each in netns]
    return lambda connection: ends.pop(0)(connection) if len(ends) > 1 else ends[0](connection)


async def test_redirected_the_client_keeps_its_interface_while_its_endpoint_dies_and_another_takes_over(tmp_path):
    with ExitStack() as stack:
        near, second = stack.enter_context(pod()), stack.enter_context(pod())
        first = stack.enter_context(ExitStack())
        doomed = first.enter_context(pod())
        async with domain(tmp_path, datapath="redirect", kernel=in_turn(doomed, second)) as mesh, mesh.hop() as hop:
            answer = await hop.request(mesh.request(kernel(near)), timeout_s=10)
            client = Shell(near.fileno())
            before = client.ifindex("nsm-1"), client.links()["nsm-1"]["address"]
            await pods_watched(mesh)
            first.close()
            await until(lambda: mesh.forwarder.statistics().connections[0].state == "DOWN")
            assert links(near) == ["nsm-1"]
            again = NetworkServiceRequest(connection=answer)
            again.connection.state = RESELECT_REQUESTED
            again.connection.network_service_endpoint_name = ""
            answer = await hop.request(again, timeout_s=10)
            assert mesh.forwarder.statistics().connections[0].state == "UP"
            assert (client.ifindex("nsm-1"), client.links()["nsm-1"]["address"]) == before
            for family in (0, 1):
                assert await ping(near, answer.context.ip_context.dst_ip_addrs[family]) == 3
            assert len(mesh.endpoint) == 1
            await hop.close(answer, timeout_s=10)
            assert links(near) == links(second) == []
            assert len(mesh.endpoint) == 0


async def test_redirected_only_packets_cross_a_vwire_of_payload_ip(tmp_path):
    """Everything else is counted under its reason."""
    async with domain(tmp_path, payload="IP", datapath="redirect") as mesh, mesh.hop() as hop:
        with pod() as netns:
            answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
            client = Shell(netns.fileno())
            # came before all was joined
            before = mesh.forwarder.statistics().connections[0].vwire.a_to_b.drops.get("not redirected", 0)
            with client.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("nsm-1", 0))
                for _ in range(5):
                    raw.send(b"\xff" * 12 + b"\x08\x06" + bytes(46))
                for _ in range(3):
                    raw.send(b"\xff" * 12 + b"\x81\x00\x00\x07\x08\x00" + bytes(46))
            assert await ping(netns, answer.context.ip_context.dst_ip_addrs[0]) == 3
            flow = mesh.forwarder.statistics().connections[0].vwire.a_to_b
            assert flow.drops == {"not redirected": before + 8}
            assert flow.in_frames == flow.out_frames + flow.dropped_frames
            await hop.close(answer, timeout_s=10)
