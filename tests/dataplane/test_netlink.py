"""Links, addresses, routes, rules and neighbours in a real kernel, looked at with the ip program."""

import errno
import ipaddress
import sys
import threading

import pytest
from pyroute2.netlink.rtnl import RTM_NEWLINK

from forwarder.errors import NetlinkError
from forwarder.netlink import Channel, address, link, neighbour, route, rule, sysctl, wire
from forwarder.netlink.link import VethEnd
from forwarder.netlink.link_remover import LinkRemover
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.request import Request
from forwarder.netlink.route import Route
from forwarder.netlink.rule import Rule
from forwarder.netns import Netns as OurNetns
from forwarder.netns import call_in
from tests.support.netns import Netns


def end(name, mtu=1500):
    return VethEnd(name=name, mac=link.random_mac(), mtu_bytes=mtu)


@pytest.fixture
def channel(netns: Netns):
    """A channel into the namespace of the test, which has a veth pair: `a`, and `b` which is up."""
    with netns.call(lambda: Channel("the test's namespace")) as made:
        made.execute(
            [
                link.create_veth(end("a"), end("b"), netns.fd),
                link.set_flags("a", on=link.IFF_UP),
                link.set_flags("b", on=link.IFF_UP),
            ]
        )
        yield made


@pytest.fixture
def index(netns: Netns, channel: Channel) -> int:
    return netns.ifindex("b")


def net(text):
    return ipaddress.ip_network(text)


def ip(text):
    return ipaddress.ip_address(text)


def test_the_other_end_of_a_pair_is_made_in_its_namespace(two_netns):
    one, two = two_netns
    with one.call(Channel) as channel:
        theirs = end("there", 9000)
        channel.execute([link.create_veth(end("here", 1400), theirs, two.fd)])
        (here,) = link.parse_all(channel.ask(link.get("here")))
    assert (here.name, here.kind, here.mtu_bytes, here.up) == ("here", "veth", 1400, False)
    assert "there" not in one.links()
    there = two.links()["there"]
    assert (there["mtu"], there["address"], there["ifindex"]) == (9000, theirs.mac.hex(":"), here.peer_index)


def test_a_link_is_changed(netns: Netns, channel: Channel):
    mac = link.random_mac()
    channel.execute([link.set_flags("a", off=link.IFF_UP), link.set_alias("a", "mine"), link.set_mtu("a", 1234)])
    channel.execute([link.set_mac("a", mac), link.rename(netns.ifindex("a"), "c"), link.set_flags("c", on=link.IFF_UP)])
    found = netns.links()["c"]
    assert (found["ifalias"], found["mtu"], found["address"]) == ("mine", 1234, mac.hex(":"))
    assert "UP" in found["flags"]


@pytest.fixture
def changes(netns: Netns, channel: Channel, monkeypatch):
    """What is done, one request each time that a part of a list of links has been read; 122 links are there."""
    channel.execute([link.create_veth(end(f"x{i}"), end(f"y{i}"), netns.fd) for i in range(60)])
    read = wire.pieces
    left: list[Request] = []
    with netns.call(Channel) as other:

        def changing(data):
            found = list(read(data))
            if left and any(piece.kind == RTM_NEWLINK for piece in found):
                with monkeypatch.context() as patch:
                    patch.setattr(wire, "pieces", read)
                    other.execute([left.pop()])
            return found

        monkeypatch.setattr(wire, "pieces", changing)
        yield left


def test_a_list_that_changed_while_it_was_read_is_asked_for_again(channel, changes):
    changes.append(link.delete("a"))
    assert len(channel.ask(link.list_all(kind="veth"))) == 120


def test_a_list_that_never_comes_to_rest_is_an_error(netns, channel, changes):
    changes.extend(link.create_veth(end(f"w{i}"), end(f"z{i}"), netns.fd) for i in range(100))
    with pytest.raises(NetlinkError, match="it changed each of the 8 times") as raised:
        channel.ask(link.list_all())
    assert raised.value.errno == errno.EAGAIN
    changes.clear()
    assert len(channel.ask(link.list_all(kind="veth"))) > 122


def test_counters_are_read(netns: Netns, channel: Channel):
    netns.run("ip", "address", "add", "10.0.0.1/24", "dev", "a")
    netns.run("ping", "-c1", "-W1", "10.0.0.2", check=False)
    links = {each.name: each for each in link.parse_all(channel.ask(link.list_all(statistics=True)))}
    assert links["a"].statistics.sent_frames >= 1
    assert links["b"].statistics.received_frames == links["a"].statistics.sent_frames
    assert links["b"].statistics.received_bytes == links["a"].statistics.sent_bytes


def test_a_refusal_says_what_was_asked_and_what_came_back(channel: Channel):
    with pytest.raises(NetlinkError) as caught:
        channel.execute([link.set_mtu("nobody", 1500)])
    assert caught.value.errno == errno.ENODEV
    assert "cannot set the MTU of link nobody to 1500 in the test's namespace: No such device" in str(caught.value)


def test_the_kernels_own_words_are_told(channel: Channel, index: int):
    with pytest.raises(NetlinkError, match="mtu greater than device maximum"):
        channel.execute([link.set_mtu(index, 1_000_000)])


def test_the_first_refusal_is_told_and_the_others_are_tried(netns: Netns, channel: Channel):
    requests = [link.set_mtu("nobody", 1500), link.set_mtu("a", 1300)]
    with pytest.raises(NetlinkError, match="nobody"):
        channel.execute(requests)
    assert netns.links()["a"]["mtu"] == 1300
    refused, done = channel.attempt(requests)
    assert refused.errno == errno.ENODEV
    assert done is None


def test_more_requests_than_one_call_takes(netns: Netns, channel: Channel, index: int):
    wanted = [ipaddress.ip_interface(f"10.1.{n}.1/32") for n in range(200)]
    channel.execute([address.add(index, one) for one in wanted])
    found = address.parse_all(channel.ask(address.list_of(index)))
    assert [one.interface for one in found if one.interface.version == 4] == wanted


def test_addresses_come_and_go_and_repeating_is_fine(netns: Netns, channel: Channel, index: int):
    four, six = ipaddress.ip_interface("10.0.0.1/24"), ipaddress.ip_interface("2001:db8::1/64")
    for _ in range(2):
        channel.execute([address.add(index, four), address.add(index, six)])
    found = address.parse_all(channel.ask(address.list_of(index)))
    assert {one.interface for one in found if one.scope == address.SCOPE_GLOBAL} == {four, six}
    assert not any(one.tentative for one in found if one.interface == six)
    for _ in range(2):
        channel.execute([address.remove(index, four), address.remove(index, six)])
    assert netns.json("ip", "-j", "address", "show", "dev", "b", "scope", "global") in ([], [{}])


def test_routes_lead_where_they_say(netns: Netns, channel: Channel, index: int):
    channel.execute([address.add(index, ipaddress.ip_interface("10.0.0.1/32"))])
    channel.execute([address.add(index, ipaddress.ip_interface("2001:db8::1/128"))])
    wanted = [
        Route(destination=net("10.0.0.2/32")),
        Route(destination=net("10.9.0.0/16"), gateway=ip("172.16.0.1")),
        Route(destination=net("2001:db8::2/128")),
        Route(destination=net("2001:db8:9::/48"), gateway=ip("2001:db8::2")),
        Route(destination=net("10.8.0.0/16"), table=1000),
    ]
    for _ in range(1):
        channel.execute([route.add(index, one) for one in wanted])
    (got,) = netns.json("ip", "-j", "route", "get", "10.9.1.1")
    assert (got["gateway"], got["dev"]) == ("172.16.0.1", "b")
    (got,) = netns.json("ip", "-j", "route", "get", "2001:db8:9::1")
    assert (got["gateway"], got["dev"]) == ("2001:db8::2", "b")
    answers = channel.execute(route.list_ours(index=index))
    found = route.parse_ours([message for answer in answers for message in answer])
    assert {one for _, one in found} == set(wanted)
    channel.execute([route.remove(index, one) for one in [*wanted, *wanted]])
    assert netns.json("ip", "-j", "route", "show", "table", "all", "proto", "118") == []


def test_somebody_elses_route_waits_behind_ours_and_serves_again(netns: Netns, channel: Channel, index: int):
    netns.run("ip", "route", "add", "10.9.0.0/16", "dev", "a")
    ours = Route(destination=net("10.9.0.0/16"))
    channel.execute([route.add(index, ours)])
    assert netns.json("ip", "-j", "route", "get", "10.9.1.1")[0]["dev"] == "b"
    channel.execute([route.remove(index, ours)])
    assert netns.json("ip", "-j", "route", "get", "10.9.1.1")[0]["dev"] == "a"


def test_an_ipv6_destination_is_not_shared_between_our_links(netns: Netns, channel: Channel, index: int):
    ours = Route(destination=net("2001:db8:9::/48"))
    channel.execute([route.add(netns.ifindex("a"), ours)])
    with pytest.raises(NetlinkError) as caught:
        channel.execute([route.add(index, ours)])
    assert caught.value.errno == errno.EEXIST


def test_rules_come_and_go(netns: Netns, channel: Channel):
    wanted = [
        Rule(version=4, table=300, source=net("172.16.2.0/24"), protocol=6, destination_ports=(80, 80)),
        Rule(version=4, table=301, protocol=17, source_ports=(10, 20)),
        Rule(version=6, table=302, source=net("2001:db8::/64")),
    ]
    channel.execute([rule.add(one) for one in wanted])
    answers = [message for answer in channel.execute(rule.list_all()) for message in answer]
    assert set(rule.parse_ours(answers)) == set(wanted)
    assert rule.tables_in_use(answers) >= {300, 301, 302, 254, 255}
    channel.execute([rule.remove(one) for one in [*wanted, *wanted]])
    assert "proto 118" not in netns.run("ip", "rule").stdout + netns.run("ip", "-6", "rule").stdout


def test_neighbours_come_and_go(netns: Netns, channel: Channel, index: int):
    here = Neighbour(ip=ip("10.0.0.2"), mac=link.random_mac(), permanent=True)
    six = Neighbour(ip=ip("2001:db8::2"), mac=link.random_mac())
    netns.run("ip", "neighbour", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:07", "dev", "b")
    channel.execute([neighbour.put(index, one) for one in (here, six)])
    moved = Neighbour(ip=here.ip, mac=link.random_mac(), permanent=True)
    channel.execute([neighbour.put(index, moved)])
    found = neighbour.parse_ours(channel.ask(neighbour.list_of(index)))
    assert {one.ip: one for one in found} == {here.ip: moved, six.ip: six}
    channel.execute([neighbour.remove(index, one.ip) for one in (here, six, here)])
    assert neighbour.parse_ours(channel.ask(neighbour.list_of(index))) == []
    assert "10.0.0.77" in netns.run("ip", "neighbour").stdout


def test_links_that_go_at_the_same_time_go_together(netns: Netns):
    with OurNetns.at_path(netns.path) as inside:
        with netns.call(Channel) as channel:
            for n in range(20):
                channel.execute([link.create_veth(end(f"a{n}"), end(f"b{n}"), netns.fd)])
        indices = [netns.ifindex(f"a{n}") for n in range(20)]
        remover = LinkRemover()

        def remove_from_threads() -> None:
            threads = [threading.Thread(target=remover.remove, args=(n,)) for n in [*indices, *indices, 999]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        call_in(inside, remove_from_threads)
    assert set(netns.links()) == {"lo"}


def test_settings_are_those_of_the_namespace(netns: Netns):
    name = "ipv4/ping_group_range"
    before = sysctl.read(name)
    netns.call(lambda: sysctl.write(name, "7 8"))
    assert netns.call(lambda: sysctl.read(name)).split() == ["7", "8"]
    assert sysctl.read(name) == before
    with pytest.raises(NetlinkError, match="net/ipv4/nothing"):
        netns.call(lambda: sysctl.write("ipv4/nothing", "1"))


def test_settings_can_be_changed_where_proc_sys_is_read_only_as_in_a_container(netns: Netns):
    name = "ipv4/ping_group_range"
    read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    change = f"from forwarder.netlink import sysctl; sysctl.write({name!r}, '7 8'); print(sysctl.read({name!r}))"
    before = sysctl.read(name)
    assert netns.run("unshare", "-m", "sh", "-ec", f"{read_only}; ! echo 9 9 > /proc/sys/net/{name}").returncode == 0
    told = netns.run("unshare", "-m", "sh", "-ec", f'{read_only}; exec "$0" -c "$1"', sys.executable, change)
    assert told.stdout.split() == ["7", "8"]
    assert netns.call(lambda: sysctl.read(name)).split() == ["7", "8"]
    assert sysctl.read(name) == before
