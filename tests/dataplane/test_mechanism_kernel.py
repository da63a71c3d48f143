"""KERNEL: what a pod gets, what it keeps over repeated Requests, and that all of it goes again."""

import asyncio
import errno
import itertools
import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.dataplane import Dataplane, Port
from forwarder.dataplane.spec import KernelPortSpec, Mode
from forwarder.errors import DataplaneError, InvalidRequest, MechanismUnsupported, NameTaken, NetlinkError
from forwarder.mechanisms.kernel import KernelMechanism
from forwarder.netlink import ingress
from tests.support.cancellation import cancelled_at_wait
from tests.support.connections import connection
from tests.support.netns import Netns, network_namespace, network_namespaces

CLIENT, ENDPOINT = Side.CLIENT, Side.ENDPOINT


class NoPorts:
    """Stands for the data plane: takes the specification and carries nothing."""

    def __init__(self) -> None:
        self.specs: list[KernelPortSpec] = []
        self.error: Exception | None = None

    @asynccontextmanager
    async def kernel_port(self, spec: KernelPortSpec) -> AsyncIterator[Port]:
        self.specs.append(spec)
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        try:
            yield Port.__new__(Port)
        finally:
            await asyncio.sleep(0)


@pytest.fixture
def ports() -> NoPorts:
    return NoPorts()


@pytest.fixture
def kernel(ports: NoPorts):
    with KernelMechanism(ports) as made:
        yield made


def asked(
    pod: Netns,
    name: str = "nsm-1",
    *,
    src: tuple[str, ...] = ("172.16.1.101/32",),
    dst: tuple[str, ...] = ("172.16.1.100/32",),
    payload: str = "ETHERNET",
    origin: str = "origin",
    mtu: int = 1500,
    **parameters: str,
) -> Connection:
    made = connection(f"nsc:{origin}", "forwarder:own", index=1, network_service="icmp-responder", payload=payload)
    made.mechanism.cls, made.mechanism.type = "LOCAL", "KERNEL"
    made.mechanism.parameters.update({"name": name, "inodeURL": f"file://{pod.path}"} | parameters)
    made.context.MTU = mtu
    made.context.ip_context.src_ip_addrs.extend(src)
    made.context.ip_context.dst_ip_addrs.extend(dst)
    return made


def policy(given: Connection, source: str = "", routes: tuple[tuple[str, str], ...] = (), **fields: str) -> None:
    made = given.context.ip_context.policies.add(**fields)
    setattr(made, "from", source)
    for prefix, hop in routes:
        made.routes.add(prefix=prefix, nextHop=hop)


def addresses(pod: Netns, name: str = "nsm-1", scope: str = "global") -> set[str]:
    (link,) = [each for each in pod.json("ip", "-j", "address", "show", "dev", name) if each]
    return {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == scope}


def way(pod: Netns, *words: str) -> tuple[str, str, object]:
    (got,) = pod.json("ip", "-j", "route", "get", *words)
    return got["dev"], got.get("gateway", ""), got.get("table", "main")


def everything(pod: Netns) -> str:
    """All that a pod's namespace has, but for what counts up or comes late."""
    return "".join(
        re.sub(r"<[^>]*>|state \S+|(local fe80:|fe80::/64|multicast ff00::).*\n", "", pod.run("ip", *words).stdout)
        for words in (
            ("-o", "link"),
            ("route", "show", "table", "all"),
            ("-6", "route", "show", "table", "all", "proto", "118"),
            ("rule",),
            ("-6", "rule"),
            ("neighbour", "show", "nud", "permanent"),
        )
    )


def our_links() -> dict[str, dict[str, object]]:
    told = subprocess.run(["ip", "-j", "-d", "address"], capture_output=True, check=True, text=True).stdout
    return {each["ifname"]: each for each in json.loads(told) if each and each["ifname"] != "lo"}


async def test_a_client_gets_its_interface(kernel: KernelMechanism, ports: NoPorts, netns: Netns):
    given = asked(netns, mtu=9000)
    given.context.ethernet_context.src_mac = "02:00:00:00:00:01"
    async with kernel.open(CLIENT, given) as opened:
        assert opened.interface == "KERNEL/nsm-1"
        theirs = netns.links()["nsm-1"]
        assert (theirs["ifalias"], theirs["mtu"], theirs["address"]) == ("server-origin", 9000, "02:00:00:00:00:01")
        assert "UP" in theirs["flags"]
        ((name, ours),) = our_links().items()
        assert (name[:11], len(name)) == ("icmp-respon"[:10] + "-", 15)
        assert (ours["ifalias"], ours["mtu"]) == ("veth-server-origin", 9000)
        assert {"UP", "NOARP"} <= set(ours["flags"])
        assert ours["addr_info"] == []
        (spec,) = ports.specs
        assert (spec.name, spec.ifindex, spec.mode, spec.mtu_bytes) == (name, ours["ifindex"], Mode.ETHERNET, 9000)
        assert (spec.mac.hex(":"), spec.peer_mac.hex(":")) == (ours["address"], "02:00:00:00:00:01")
    assert set(netns.links()) == {"lo"}
    assert our_links() == {}


async def test_an_endpoint_gets_the_other_addresses_and_the_other_mark(kernel: KernelMechanism, netns: Netns):
    given = asked(netns)
    given.context.ethernet_context.dst_mac = "02:00:00:00:00:02"
    async with kernel.open(ENDPOINT, given):
        theirs = netns.links()["nsm-1"]
        assert (theirs["ifalias"], theirs["address"]) == ("client-origin", "02:00:00:00:00:02")
        assert addresses(netns) == {"172.16.1.100/32"}
        assert way(netns, "172.16.1.101") == ("nsm-1", "", "main")


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (("172.16.1.101/32",), ("172.16.1.100/32",)),
        (("2001:db8::2/128",), ("2001:db8::1/128",)),
        (("172.16.1.101/31", "2001:db8::3/127"), ("172.16.1.100/31", "2001:db8::2/127")),
        (("10.0.0.2/24", "10.0.0.3/24"), ("10.0.0.1/24",)),
    ],
    ids=["ipv4", "ipv6", "dual", "several"],
)
async def test_addresses_can_be_used_at_once(kernel: KernelMechanism, netns: Netns, src, dst):
    async with kernel.open(CLIENT, asked(netns, src=src, dst=dst)):
        assert addresses(netns) == set(src)
        for address in src:
            plain = address.split("/")[0]
            family = socket.AF_INET6 if ":" in plain else socket.AF_INET
            with netns.socket(family, socket.SOCK_DGRAM) as bound:
                bound.bind((plain, 0))
        for address in dst:
            assert way(netns, address.split("/")[0])[:2] == ("nsm-1", "")


async def test_ipv6_works_where_it_is_switched_off_by_default(kernel: KernelMechanism, netns: Netns):
    netns.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
    async with kernel.open(CLIENT, asked(netns, src=("2001:db8::2/64",), dst=("2001:db8::1/64",))):
        assert addresses(netns) == {"2001:db8::2/64"}


async def test_routes_go_over_the_peer_or_their_next_hop(kernel: KernelMechanism, netns: Netns):
    given = asked(netns, src=("172.16.1.101/32", "2001:db8::2/128"), dst=("172.16.1.100/32", "2001:db8::1/128"))
    routes = given.context.ip_context.src_routes
    routes.add(prefix="172.16.1.100/32")
    routes.add(prefix="10.0.0.0/8")
    routes.add(prefix="11.0.0.0/8", nextHop="192.168.7.7")
    routes.add(prefix="2001:db8:7::/48")
    async with kernel.open(CLIENT, given):
        assert way(netns, "172.16.1.100") == ("nsm-1", "", "main")
        assert way(netns, "10.1.1.1") == ("nsm-1", "172.16.1.100", "main")
        assert way(netns, "11.1.1.1") == ("nsm-1", "192.168.7.7", "main")
        assert way(netns, "2001:db8:7::1") == ("nsm-1", "2001:db8::1", "main")


async def test_policies_send_matching_packets_through_their_own_tables(kernel: KernelMechanism, netns: Netns):
    before = everything(netns)
    given = asked(netns, src=("172.16.1.101/32", "172.16.2.201/32", "2001:db8::2/128"), dst=("172.16.1.100/32",))
    given.context.ip_context.src_routes.add(prefix="172.16.3.0/24")
    policy(given, "172.16.2.201/24", (("172.16.3.0/24", "172.16.2.200"),), proto="6", dst_port="6666")
    policy(given, "172.16.2.201/24", (("172.16.3.0/24", "172.16.2.199"),), proto="17", src_port="5555")
    policy(given, proto="17", dst_port="7000-7010")
    policy(given, "2001:db8::2/128", (("2001:db8:9::/48", "2001:db8::9"),))
    async with kernel.open(CLIENT, given) as opened:
        to = ("172.16.3.1", "from", "172.16.2.201")
        for _ in range(2):
            assert way(netns, *to, "ipproto", "6", "dport", "6666") == ("nsm-1", "172.16.2.200", "1")
            assert way(netns, *to, "ipproto", "17", "sport", "5555") == ("nsm-1", "172.16.2.199", "2")
            assert way(netns, *to, "ipproto", "17", "dport", "7005") == ("nsm-1", "", "3")
            assert way(netns, *to, "ipproto", "6", "dport", "80") == ("nsm-1", "172.16.1.100", "main")
            assert way(netns, "2001:db8:9::1", "from", "2001:db8::2") == ("nsm-1", "2001:db8::9", "4")
            await opened.update(given)
        del given.context.ip_context.policies[0]
        policy(given, "172.16.2.201/24", (("172.16.3.0/24", "172.16.2.198"),), dst_port="9999")
        given.context.ip_context.policies[0].routes[0].nextHop = "172.16.2.197"
        await opened.update(given)
        assert way(netns, *to, "ipproto", "6", "dport", "6666") == ("nsm-1", "172.16.1.100", "main")
        assert way(netns, *to, "ipproto", "17", "sport", "5555") == ("nsm-1", "172.16.2.197", "2")
        assert way(netns, *to, "ipproto", "6", "dport", "9999") == ("nsm-1", "172.16.2.198", "5")
    assert everything(netns) == before


async def test_two_wires_of_one_pod_share_no_table(kernel: KernelMechanism, netns: Netns):
    before = everything(netns)
    netns.run("ip", "rule", "add", "from", "10.9.9.9", "lookup", "2")
    async with AsyncExitStack() as stack:
        for n in range(3):
            given = asked(netns, f"nsm-{n}", src=(f"10.{n}.0.2/32",), dst=(f"10.{n}.0.1/32",), origin=f"o{n}")
            policy(given, f"10.{n}.0.2/32")
            await stack.enter_async_context(kernel.open(CLIENT, given))
        for n, table in enumerate(("1", "3", "4")):
            assert way(netns, "9.9.9.9", "from", f"10.{n}.0.2") == (f"nsm-{n}", "", table)
    netns.run("ip", "rule", "del", "from", "10.9.9.9")
    assert everything(netns) == before


async def test_neighbours_are_told(kernel: KernelMechanism, ports: NoPorts, netns: Netns):
    given = asked(netns)
    given.context.ip_context.ip_neighbors.add(ip="172.16.1.100", hardware_address="02:00:00:00:00:09")
    async with kernel.open(CLIENT, given) as opened:
        (one,) = netns.json("ip", "-j", "neighbour", "show", "172.16.1.100", "dev", "nsm-1")
        assert (one["lladdr"], one["state"]) == ("02:00:00:00:00:09", ["REACHABLE"])
        given.context.ip_context.ip_neighbors[0].hardware_address = "02:00:00:00:00:0a"
        await opened.update(given)
        (one,) = netns.json("ip", "-j", "neighbour", "show", "172.16.1.100", "dev", "nsm-1")
        assert one["lladdr"] == "02:00:00:00:00:0a"
        del given.context.ip_context.ip_neighbors[:]
        await opened.update(given)
        assert netns.json("ip", "-j", "neighbour", "show", "172.16.1.100", "dev", "nsm-1") == []


async def test_with_payload_ip_every_peer_is_behind_our_end(kernel: KernelMechanism, ports: NoPorts, netns: Netns):
    given = asked(netns, src=("172.16.1.101/32", "2001:db8::2/128"), dst=("172.16.1.100/32", "2001:db8::1/128"))
    given.payload = "IP"
    async with kernel.open(CLIENT, given):
        (spec,) = ports.specs
        assert spec.mode is Mode.IP
        told = netns.json("ip", "-j", "neighbour", "show", "nud", "permanent", "dev", "nsm-1")
        assert {one["dst"]: one["lladdr"] for one in told} == {
            "172.16.1.100": spec.mac.hex(":"),
            "2001:db8::1": spec.mac.hex(":"),
        }
        assert spec.peer_mac.hex(":") == netns.links()["nsm-1"]["address"]


async def test_a_repeated_request_touches_nothing(kernel: KernelMechanism, netns: Netns):
    given = asked(netns, src=("172.16.1.101/24", "2001:db8::2/64"), payload="IP")
    given.context.ip_context.src_routes.add(prefix="10.0.0.0/8")
    policy(given, "172.16.1.101/32")
    async with kernel.open(CLIENT, given) as opened:
        before, index = everything(netns), netns.ifindex("nsm-1")
        with netns.call(watch_everything) as events:
            for _ in range(3):
                assert opened.serves(given)
                await opened.update(given)
            assert changes_seen(events) == 0
        assert (everything(netns), netns.ifindex("nsm-1")) == (before, index)


def watch_everything() -> socket.socket:
    """Subscribes to changes of links, addresses, routes and rules of the thread's namespace."""
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    made.bind((0, 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000))
    return made


def changes_seen(events: socket.socket) -> int:
    count = 0
    while True:
        try:
            data = events.recv(1 << 16)
        except BlockingIOError:
            return count
        # the kernel's own link-local address and its routes come when they come
        count += b"\xfe\x80" not in data and b"\xff\0" not in data


async def test_a_changed_context_is_applied_to_the_same_interface(kernel: KernelMechanism, netns: Netns):
    given = asked(netns, src=("10.0.0.1/24", "10.0.0.2/24", "2001:db8::2/64"), dst=("10.0.0.9/32",))
    given.context.ip_context.src_routes.add(prefix="10.7.0.0/16")
    async with kernel.open(CLIENT, given) as opened:
        index = netns.ifindex("nsm-1")
        context = given.context.ip_context
        del context.src_ip_addrs[:]
        context.src_ip_addrs.extend(["10.0.0.2/24", "10.1.0.1/32", "2001:db8::2/128"])
        context.src_routes[0].prefix = "10.8.0.0/16"
        await opened.update(given)
        assert opened.serves(given)
        assert netns.ifindex("nsm-1") == index
        assert addresses(netns) == {"10.0.0.2/24", "10.1.0.1/32", "2001:db8::2/128"}
        assert way(netns, "10.8.0.1")[:2] == ("nsm-1", "10.0.0.9")
        assert netns.run("ip", "route", "get", "10.7.0.1", check=False).returncode != 0


async def test_what_others_changed_is_put_right(kernel: KernelMechanism, netns: Netns):
    given = asked(netns)
    given.context.ip_context.src_routes.add(prefix="10.7.0.0/16")
    async with kernel.open(CLIENT, given) as opened:
        await opened.update(given)
        netns.run("ip", "address", "add", "10.66.0.1/24", "dev", "nsm-1")
        netns.run("ip", "address", "del", "172.16.1.101/32", "dev", "nsm-1")
        netns.run("ip", "link", "set", "nsm-1", "down", "mtu", "1300")
        await opened.update(given)
        assert addresses(netns) == {"172.16.1.101/32"}
        assert netns.links()["nsm-1"]["mtu"] == 1500
        assert way(netns, "10.7.0.1")[:2] == ("nsm-1", "172.16.1.100")
        assert way(netns, "172.16.1.100")[0] == "nsm-1"


async def test_what_a_port_cannot_become_asks_for_another(kernel: KernelMechanism, two_netns: tuple[Netns, Netns]):
    netns, other = two_netns
    given = asked(netns)
    async with kernel.open(CLIENT, given) as opened:
        inode = asked(netns, inodeURL=f"inode://{os.fstat(netns.fd).st_dev}/{netns.inode}")
        assert opened.serves(given)
        assert opened.serves(inode)
        for different in (
            asked(netns, "nsm-2"),
            asked(other),
            asked(netns, payload="IP"),
            asked(netns, origin="another"),
            asked(netns, inodeURL="file:///nowhere"),
        ):
            assert not opened.serves(different)
        different = asked(netns)
        different.context.ethernet_context.src_mac = "02:00:00:00:00:01"
        assert not opened.serves(different)
        different = asked(netns)
        different.mechanism.type = "MEMIF"
        assert not opened.serves(different)


async def test_a_name_that_is_taken_is_refused_and_its_link_stays(kernel: KernelMechanism, netns: Netns):
    netns.run("ip", "link", "add", "nsm-1", "type", "bridge")
    with pytest.raises(NameTaken, match="taken by another link"):
        async with kernel.open(CLIENT, asked(netns)):
            pass
    assert set(netns.links()) == {"lo", "nsm-1"}


async def test_a_link_left_over_with_our_mark_makes_room(kernel: KernelMechanism, netns: Netns):
    netns.run("ip", "link", "add", "nsm-1", "type", "bridge")
    netns.run("ip", "link", "set", "nsm-1", "alias", "server-origin")
    netns.run("ip", "link", "add", "nsm-2", "type", "bridge")
    netns.run("ip", "link", "set", "nsm-2", "alias", "server-another")
    async with kernel.open(CLIENT, asked(netns)):
        assert set(netns.links()) == {"lo", "nsm-1", "nsm-2"}
        assert netns.links()["nsm-1"]["linkinfo"]["info_kind"] == "veth"


async def test_rules_left_over_are_removed_before_tables_are_chosen(kernel: KernelMechanism, netns: Netns):
    netns.run("ip", "rule", "add", "from", "10.5.5.5", "lookup", "1", "protocol", "118")
    netns.run("ip", "rule", "add", "from", "10.6.6.6", "lookup", "2")
    given = asked(netns)
    policy(given, "172.16.1.101/32")
    async with kernel.open(CLIENT, given):
        rules = netns.run("ip", "rule").stdout
        assert "10.5.5.5" not in rules
        assert "10.6.6.6" in rules
    netns.run("ip", "rule", "del", "from", "10.6.6.6")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"name": ""}, "empty"),
        ({"name": "much-too-long-a-name"}, "longer"),
        ({"inodeURL": ""}, "inodeURL"),
        ({"inodeURL": "nonsense"}, "inodeURL"),
        ({"inodeURL": "file:///proc/thread-self/ns/net"}, "sender's own"),
        ({"inodeURL": "inode://4/1"}, "inodeURL"),
        ({"inodeURL": "file:///dev/zero"}, "inodeURL"),
    ],
)
async def test_wrong_parameters_are_refused(kernel: KernelMechanism, netns: Netns, parameters, says):
    with pytest.raises(InvalidRequest, match=says):
        async with kernel.open(CLIENT, asked(netns, **parameters)):
            pass


async def test_address_translation_rules_are_refused_plainly(kernel: KernelMechanism, netns: Netns):
    given = asked(netns, IPTables4NatTemplate="-A PREROUTING -j ISTIO_REDIRECT")
    with pytest.raises(MechanismUnsupported, match="IPTables4NatTemplate"):
        async with kernel.open(ENDPOINT, given):
            pass


async def test_what_the_kernel_refuses_leaves_nothing(kernel: KernelMechanism, netns: Netns):
    given = asked(netns, src=("10.0.0.1/32", "224.0.0.1/32", "0.0.0.0/0"))
    given.context.ip_context.src_routes.add(prefix="10.7.0.0/16", nextHop="224.0.0.1")
    policy(given, "10.0.0.1/32")
    with pytest.raises(NetlinkError, match="cannot add"):
        async with kernel.open(CLIENT, given):
            pass
    assert set(netns.links()) == {"lo"}
    assert our_links() == {}


async def test_a_port_that_does_not_open_leaves_nothing(kernel: KernelMechanism, ports: NoPorts, netns: Netns):
    ports.error = DataplaneError("no")
    given = asked(netns)
    policy(given, "10.0.0.1/32")
    with pytest.raises(DataplaneError):
        async with kernel.open(CLIENT, given):
            pass
    assert set(netns.links()) == {"lo"}
    assert "118" not in netns.run("ip", "rule").stdout


async def test_cancelled_at_every_wait_it_leaves_nothing_and_works_the_next_time(kernel: KernelMechanism, netns: Netns):
    before = everything(netns)
    given = asked(netns, src=("10.0.0.1/32", "2001:db8::2/128"))
    policy(given, "10.0.0.1/32")

    async def work() -> None:
        async with kernel.open(CLIENT, given) as opened:
            await opened.update(given)
            await opened.update(given)
            await asyncio.sleep(0)

    for number in itertools.count(1):
        cancelled = await cancelled_at_wait(work, number)
        assert everything(netns) == before
        assert our_links() == {}
        if not cancelled:
            break
    assert number > 5


async def test_a_pod_that_goes_takes_its_interface_along(kernel: KernelMechanism):
    with network_namespace() as pod:
        given = asked(pod)
        policy(given, "172.16.1.101/32")
        opening = kernel.open(CLIENT, given)
        opened = await opening.__aenter__()
    while our_links():  # noqa: ASYNC110 - the kernel takes a dead namespace apart when it comes to it
        await asyncio.sleep(0.01)
    assert not opened.serves(given)
    await opened.update(given)  # nothing to do: it was opened with this
    with pytest.raises((NetlinkError, InvalidRequest)):
        await opened.update(given)
    await opening.__aexit__(None, None, None)


async def test_an_interface_that_was_deleted_is_told_and_closes_quietly(kernel: KernelMechanism, netns: Netns):
    given = asked(netns)
    async with kernel.open(CLIENT, given) as opened:
        await opened.update(given)
        netns.run("ip", "link", "del", "nsm-1")
        with pytest.raises(NetlinkError):
            await opened.update(given)


async def test_a_deleted_namespace_beneath_the_same_path_is_another(kernel: KernelMechanism, tmp_path):
    link = tmp_path / "ns"
    with network_namespaces(2) as (first, second):
        link.symlink_to(first.path)
        given = asked(first, inodeURL=f"file://{link}")
        async with kernel.open(CLIENT, given) as opened:
            await opened.update(given)
            link.unlink()
            link.symlink_to(second.path)
            assert not opened.serves(given)
            with pytest.raises(NetlinkError, match="not the network namespace that it was"):
                await opened.update(given)


async def test_fifty_at_the_same_time(kernel: KernelMechanism, netns: Netns):
    before = everything(netns)
    wanted = [
        asked(netns, f"nsm-{n}", src=(f"10.{n}.0.2/32",), dst=(f"10.{n}.0.1/32",), origin=f"o{n}") for n in range(50)
    ]
    opening = [kernel.open(CLIENT, given) for given in wanted]
    opened = await asyncio.gather(*(one.__aenter__() for one in opening))
    assert len(netns.links()) == len(our_links()) + 1 == 51
    await asyncio.gather(*(one.update(given) for one, given in zip(opened, wanted, strict=True)))
    for n in (0, 17, 49):
        assert way(netns, f"10.{n}.0.1")[0] == f"nsm-{n}"
    await asyncio.gather(*(one.__aexit__(None, None, None) for one in opening))
    assert everything(netns) == before
    assert our_links() == {}


async def test_settings_of_the_pod_are_made(kernel: KernelMechanism, netns: Netns):
    async with kernel.open(ENDPOINT, asked(netns, routeLocalNet="true")):
        assert netns.run("cat", "/proc/sys/net/ipv4/ping_group_range").stdout.split() == ["0", "2147483647"]
        assert netns.run("cat", "/proc/sys/net/ipv4/conf/nsm-1/route_localnet").stdout.strip() == "1"


async def test_a_shared_vlan_interface_gets_no_context(kernel: KernelMechanism, netns: Netns):
    async with kernel.open(CLIENT, asked(netns, vlan="7")) as opened:
        await opened.update(asked(netns, vlan="7", src=("10.0.0.1/24",)))
        assert addresses(netns) == set()


async def test_an_offer_is_empty_for_the_endpoint_fills_it(kernel: KernelMechanism, netns: Netns):
    offer = kernel.preference(asked(netns))
    assert (offer.cls, offer.type, dict(offer.parameters)) == ("LOCAL", "KERNEL", {})


async def test_frames_that_the_data_plane_takes_reach_no_program_of_ours(
    kernel: KernelMechanism, netns: Netns, ports: NoPorts
):
    async with kernel.open(CLIENT, asked(netns, src=("10.0.0.2/24",), dst=("10.0.0.1/24",))):
        (spec,) = ports.specs
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as tap,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program,
            netns.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            tap.bind((spec.name, 0x0003))
            tap.settimeout(5)
            program.bind(("255.255.255.255", 5000))
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"nsm-1")
            for _ in range(3):
                sender.sendto(b"for the wire", ("255.255.255.255", 5000))
            for _ in range(3):
                while not tap.recv(2000).endswith(b"for the wire"):
                    pass
            with pytest.raises(BlockingIOError):
                program.recv(2000, socket.MSG_DONTWAIT)


async def test_without_the_filter_the_wire_works_and_the_reason_is_told(
    kernel: KernelMechanism, netns: Netns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(_program: bytes) -> int:
        raise NetlinkError("cannot load the filter", errno=errno.EPERM)

    monkeypatch.setattr(ingress, "_load", refuse)
    async with kernel.open(CLIENT, asked(netns)):
        assert addresses(netns) == {"172.16.1.101/32"}
        assert "UP" in next(iter(our_links().values()))["flags"]
    assert "will reach our own network stack too: cannot load the filter: Operation not permitted" in caplog.text


@pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
async def test_a_ping_crosses_a_vwire_between_two_pods(two_netns: tuple[Netns, Netns], payload: str):
    client, endpoint = two_netns
    addressed = {
        "src": ("172.16.1.101/32", "2001:db8::2/128"),
        "dst": ("172.16.1.100/32", "2001:db8::1/128"),
        "payload": payload,
    }
    async with Dataplane() as dataplane:
        with KernelMechanism(dataplane) as kernel:
            async with (
                kernel.open(ENDPOINT, asked(endpoint, **addressed)) as b,
                kernel.open(CLIENT, asked(client, **addressed)) as a,
                dataplane.vwire(a.port, b.port) as wire,
            ):
                await ping(client, "172.16.1.100", "2001:db8::1")
                assert wire.statistics().a_to_b.out_frames >= 6


async def ping(pod: Netns, *ips: str, size: int = 56) -> None:
    for ip in ips:
        command = ("ping", "-c3", "-i0.05", "-W2", "-Mdo", f"-s{size}", ip)
        done = await asyncio.to_thread(pod.run, *command, check=False)
        assert " 0% packet loss" in done.stdout, done.stdout


async def test_a_changed_mtu_is_applied_to_the_same_interfaces(two_netns: tuple[Netns, Netns]):
    client, endpoint = two_netns
    async with Dataplane() as dataplane:
        with KernelMechanism(dataplane) as kernel:
            async with (
                kernel.open(ENDPOINT, asked(endpoint)) as b,
                kernel.open(CLIENT, asked(client)) as a,
                dataplane.vwire(a.port, b.port),
            ):
                indices = client.ifindex("nsm-1"), endpoint.ifindex("nsm-1")
                for mtu in (9000, 1300):
                    for opened, pod in ((a, client), (b, endpoint)):
                        assert opened.serves(asked(pod, mtu=mtu))
                        await opened.update(asked(pod, mtu=mtu))
                        assert pod.links()["nsm-1"]["mtu"] == mtu
                    assert {link["mtu"] for link in our_links().values()} == {mtu}
                    await ping(client, "172.16.1.100", size=mtu - 28)
                assert (client.ifindex("nsm-1"), endpoint.ifindex("nsm-1")) == indices


def changed(given: Connection, *, mac: str = "", payload: str = "ETHERNET") -> Connection:
    again = Connection()
    again.CopyFrom(given)
    again.payload = payload
    again.context.ethernet_context.src_mac = mac
    return again


@pytest.mark.parametrize("change", [{"mac": "02:00:00:00:00:09"}, {"payload": "IP"}], ids=["address", "payload"])
async def test_an_interface_that_is_replaced_in_vain_is_there_again(kernel, ports, netns: Netns, change):
    given = asked(netns, src=("172.16.1.101/32", "fd00::1/128"), dst=("172.16.1.100/32", "fd00::2/128"))
    given.context.ip_context.src_routes.add(prefix="10.9.0.0/16", nextHop="172.16.1.100")
    policy(given, source="172.16.1.101/32", routes=(("10.8.0.0/16", ""),))
    async with kernel.open(CLIENT, given) as opened:
        before, names = everything(netns), set(our_links())
        ports.error = DataplaneError("injected")
        with pytest.raises(DataplaneError, match="injected"):
            async with kernel.open(CLIENT, changed(given, **change)):
                pass
        assert sorted(everything(netns).splitlines()) == sorted(before.splitlines())
        assert set(our_links()) == names
        assert addresses(netns) == {"172.16.1.101/32", "fd00::1/128"}
        assert opened.serves(given)
        await opened.update(changed(given))
    assert set(netns.links()) == {"lo"}


async def test_an_interface_is_replaced_under_its_name_and_the_old_one_goes_after_it(kernel, netns: Netns):
    given = asked(netns, src=("172.16.1.101/32", "fd00::1/128"), dst=("172.16.1.100/32", "fd00::2/128"))
    async with AsyncExitStack() as new:
        async with kernel.open(CLIENT, given):
            await new.enter_async_context(kernel.open(CLIENT, changed(given, mac="02:00:00:00:00:09")))
            assert len(netns.links()) == 3
        assert set(netns.links()) == {"lo", "nsm-1"}
        assert netns.links()["nsm-1"]["address"] == "02:00:00:00:00:09"
        assert addresses(netns) == {"172.16.1.101/32", "fd00::1/128"}
        assert way(netns, "172.16.1.100")[0] == way(netns, "fd00::2")[0] == "nsm-1"
    assert set(netns.links()) == {"lo"}
    assert our_links() == {}
