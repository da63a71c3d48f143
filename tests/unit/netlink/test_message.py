"""Every message that we send is held against pyroute2's reading of it, and the other way round."""

import errno
import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from forwarder.netlink import address, ingress, link, neighbour, route, rule
from forwarder.netlink.link import VethEnd
from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.message import (
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    Request,
    attribute,
    parse_attributes,
    parse_messages,
    parse_verdict,
    text,
)
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.route import Route
from forwarder.netlink.rule import Rule

MAC = bytes.fromhex("020000000001")


def read(kind, request):
    message = kind(request.encode(7))
    message.decode()
    assert message["header"]["type"] == request.type
    assert message["header"]["sequence_number"] == 7
    assert message["header"]["length"] == len(request.encode(7)) or len(request.encode(7)) % 4 == 0
    return message


def received(kind, number, fields, attributes):
    """Encodes a message as the kernel would send it, by pyroute2."""
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"]["type"] = number
    message.encode()
    (decoded,) = parse_messages(bytes(message.data))
    return decoded


def test_creating_a_veth_pair_names_both_ends_and_the_other_namespace():
    ours = VethEnd(name="svc-abcdefghijk", mac=MAC, mtu_bytes=9000)
    theirs = VethEnd(name="nsm-1", mac=MAC[:-1] + b"\2", mtu_bytes=1500)
    message = read(ifinfmsg, link.create_veth(ours, theirs, 42))
    assert message.get("IFLA_IFNAME") == "svc-abcdefghijk"
    assert message.get("IFLA_ADDRESS") == "02:00:00:00:00:01"
    assert message.get("IFLA_MTU") == 9000
    assert message.get(("linkinfo", "kind")) == "veth"
    peer = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer.get("IFLA_IFNAME") == "nsm-1"
    assert peer.get("IFLA_ADDRESS") == "02:00:00:00:00:02"
    assert peer.get("IFLA_MTU") == 1500
    assert peer.get("IFLA_NET_NS_FD") == 42


@pytest.mark.parametrize(
    ("request_", "name", "value"),
    [
        (link.set_alias(3, "server-abc"), "IFLA_IFALIAS", "server-abc"),
        (link.set_mtu(3, 1400), "IFLA_MTU", 1400),
        (link.set_mac(3, MAC), "IFLA_ADDRESS", "02:00:00:00:00:01"),
        (link.rename(3, "nsm-2"), "IFLA_IFNAME", "nsm-2"),
        (link.list_all(), "IFLA_EXT_MASK", 8),
    ],
)
def test_changing_a_link_says_what_changes(request_, name, value):
    assert read(ifinfmsg, request_).get(name) == value


def test_a_link_is_changed_by_index_or_by_name():
    assert read(ifinfmsg, link.set_mtu(3, 1400))["index"] == 3
    by_name = read(ifinfmsg, link.set_mtu("nsm-1", 1400))
    assert (by_name["index"], by_name.get("IFLA_IFNAME")) == (0, "nsm-1")


def test_flags_are_switched_under_a_mask():
    message = read(ifinfmsg, link.set_flags(3, on=link.IFF_UP, off=link.IFF_NOARP))
    assert (message["flags"], message["change"]) == (link.IFF_UP, link.IFF_UP | link.IFF_NOARP)


def test_ipv6_address_generation_is_switched_off():
    message = read(ifinfmsg, link.no_ipv6_address(3))
    assert message.get_nested("IFLA_AF_SPEC", "AF_INET6").get("IFLA_INET6_ADDR_GEN_MODE") == 1


def test_links_are_deleted_together_by_one_group():
    *marks, deletion = link.delete_together([3, 4])
    groups = {read(ifinfmsg, mark).get("IFLA_GROUP") for mark in marks}
    assert groups == {read(ifinfmsg, deletion).get("IFLA_GROUP")}
    assert [read(ifinfmsg, mark)["index"] for mark in marks] == [3, 4]


@pytest.mark.parametrize("cidr", ["10.0.0.1/24", "2001:db8::1/64"])
def test_an_address_is_added_with_our_mark_and_ipv6_without_looking_for_duplicates(cidr):
    interface = ipaddress.ip_interface(cidr)
    message = read(ifaddrmsg, address.add(3, interface))
    assert (message["index"], message["prefixlen"]) == (3, interface.network.prefixlen)
    assert message.get("IFA_ADDRESS") == message.get("IFA_LOCAL") == str(interface.ip)
    assert message.get("IFA_PROTO") == PROTOCOL
    assert bool((message.get("IFA_FLAGS") or 0) & 0x02) == (interface.version == 6)


@pytest.mark.parametrize(
    ("given", "scope", "flags"),
    [
        (Route(destination=ipaddress.ip_network("10.0.0.0/8")), 253, 0),
        (
            Route(destination=ipaddress.ip_network("0.0.0.0/0"), gateway=ipaddress.ip_address("10.1.1.1"), table=7),
            0,
            4,
        ),
        (
            Route(
                destination=ipaddress.ip_network("2001:db8::/32"), gateway=ipaddress.ip_address("fe80::1"), table=1000
            ),
            0,
            4,
        ),
    ],
)
def test_a_route_with_a_gateway_is_on_link_and_one_without_has_link_scope(given, scope, flags):
    message = read(rtmsg, route.add(3, given))
    assert message["proto"] == PROTOCOL
    assert (message["scope"], message["flags"]) == (scope, flags)
    assert message["dst_len"] == given.destination.prefixlen
    assert message.get("RTA_DST") == str(given.destination.network_address)
    assert message.get("RTA_GATEWAY") == (str(given.gateway) if given.gateway else None)
    assert message.get("RTA_TABLE") == given.table
    assert message.get("RTA_OIF") == 3


def test_a_rule_carries_all_its_selectors():
    given_rule = Rule(
        version=4,
        table=300,
        source=ipaddress.ip_network("172.16.2.0/24"),
        protocol=6,
        source_ports=(10, 20),
        destination_ports=(80, 80),
    )
    message = read(fibmsg, rule.add(given_rule))
    assert (message["family"], message["src_len"], message["action"]) == (socket.AF_INET, 24, 1)
    assert message.get("FRA_SRC") == "172.16.2.0"
    assert message.get("FRA_IP_PROTO") == 6
    assert message.get("FRA_SPORT_RANGE") == "10:20"
    assert message.get("FRA_DPORT_RANGE") == "80:80"
    assert message.get("FRA_TABLE") == 300
    assert message.get("FRA_PROTOCOL") == PROTOCOL


@pytest.mark.parametrize(("permanent", "state"), [(True, 0x80), (False, 0x02)])
def test_a_neighbour_is_permanent_or_reachable(permanent, state):
    one = Neighbour(ip=ipaddress.ip_address("10.0.0.2"), mac=MAC, permanent=permanent)
    message = read(ndmsg, neighbour.put(3, one))
    assert (message["ifindex"], message["state"]) == (3, state)
    assert message.get("NDA_DST") == "10.0.0.2"
    assert message.get("NDA_LLADDR") == "02:00:00:00:00:01"


def test_the_drop_filter_is_a_direct_action_program_at_ingress(monkeypatch):
    monkeypatch.setattr(ingress, "_load", lambda: 99)
    monkeypatch.setattr(ingress.os, "close", lambda fd: None)
    drop = ingress.DropFilter()
    qdisc, program = (read(tcmsg, request) for request in drop.attach(3))
    drop.close()
    assert (qdisc["index"], qdisc["parent"], qdisc.get("TCA_KIND")) == (3, 0xFFFFFFF1, "clsact")
    assert (program["parent"], program["info"] & 0xFFFF) == (0xFFFFFFF2, socket.htons(3))
    options = program.get("TCA_OPTIONS")
    assert (options.get("TCA_BPF_FD"), options.get("TCA_BPF_FLAGS")) == (99, 1)


def test_a_link_is_read_with_its_mark_and_its_counters():
    message = received(
        ifinfmsg,
        link.RTM_NEWLINK,
        {"index": 5, "flags": link.IFF_UP},
        [
            ("IFLA_IFNAME", "nsm-1"),
            ("IFLA_IFALIAS", "server-abc"),
            ("IFLA_MTU", 1500),
            ("IFLA_LINK", 9),
            ("IFLA_ADDRESS", "02:00:00:00:00:01"),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
            (
                "IFLA_STATS64",
                {"rx_packets": 1, "tx_packets": 2, "rx_bytes": 3, "tx_bytes": 4, "rx_dropped": 5, "tx_dropped": 6},
            ),
        ],
    )
    found = link.parse(message)
    assert (found.index, found.name, found.alias, found.kind) == (5, "nsm-1", "server-abc", "veth")
    assert (found.mac, found.mtu_bytes, found.peer_index, found.up) == (MAC, 1500, 9, True)
    assert found.statistics == link.Statistics(
        received_frames=1, received_bytes=3, sent_frames=2, sent_bytes=4, receive_drops=5, send_drops=6
    )


def test_addresses_are_read_with_scope_and_whether_they_can_be_used():
    message = received(
        ifaddrmsg,
        address.RTM_NEWADDR,
        {"family": socket.AF_INET6, "prefixlen": 64, "index": 5, "scope": 253},
        [("IFA_ADDRESS", "fe80::1"), ("IFA_FLAGS", 0x40)],
    )
    (found,) = address.parse_all([message], 5)
    assert found == address.Address(index=5, interface=ipaddress.ip_interface("fe80::1/64"), scope=253, tentative=True)
    assert address.parse_all([message], 6) == []


def routes_of(*, proto, table=254):
    return received(
        rtmsg,
        route.RTM_NEWROUTE,
        {"family": socket.AF_INET, "dst_len": 24, "proto": proto, "type": 1, "table": min(table, 252)},
        [("RTA_DST", "10.1.2.0"), ("RTA_OIF", 5), ("RTA_GATEWAY", "10.9.9.9"), ("RTA_TABLE", table)],
    )


def test_only_routes_with_our_mark_are_ours():
    wanted = Route(
        destination=ipaddress.ip_network("10.1.2.0/24"), gateway=ipaddress.ip_address("10.9.9.9"), table=1000
    )
    assert route.parse_ours([routes_of(proto=PROTOCOL, table=1000), routes_of(proto=4)]) == [(5, wanted)]
    assert route.tables_in_use([routes_of(proto=PROTOCOL, table=1000), routes_of(proto=4)]) == {254, 1000}


@given(
    st.builds(
        Rule,
        version=st.just(4),
        table=st.integers(1, 2**32 - 1),
        source=st.none() | st.just(ipaddress.ip_network("172.16.2.0/24")),
        protocol=st.integers(0, 255),
        source_ports=st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
        destination_ports=st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    )
)
def test_a_rule_comes_back_as_it_was_sent(given_rule):
    (message,) = parse_messages(rule.add(given_rule).encode(1))
    assert rule.parse_ours([message]) == [given_rule]


def test_a_neighbour_comes_back_as_it_was_sent():
    one = Neighbour(ip=ipaddress.ip_address("2001:db8::1"), mac=MAC, permanent=True)
    (message,) = parse_messages(neighbour.put(3, one).encode(1))
    assert neighbour.parse_ours([message], 3) == [one]
    assert neighbour.parse_ours([message], 4) == []


def test_orders_are_acknowledged_and_lists_are_not():
    assert struct.unpack_from("=H", link.delete(3).encode(1), 6)[0] & 0x4
    assert not struct.unpack_from("=H", link.list_all().encode(1), 6)[0] & 0x4
    assert struct.unpack_from("=H", link.get(3).encode(1), 6)[0] & 0x4
    # CREATE and EXCL share their bits with the flags of a dump
    assert not address.add(3, ipaddress.ip_interface("10.0.0.1/8")).is_dump


def test_a_verdict_has_the_number_and_the_kernels_words():
    said = text(1, "Invalid prefix for given prefix length.")
    body = struct.pack("=i", -errno.EINVAL) + struct.pack("=IHHII", 16, 24, 5, 1, 0) + said
    verdict = parse_verdict(Message(type=NLMSG_ERROR, flags=0x300, sequence=1, body=body))
    assert (verdict.errno, verdict.text) == (errno.EINVAL, "Invalid prefix for given prefix length.")
    done = parse_verdict(Message(type=NLMSG_DONE, flags=0, sequence=1, body=struct.pack("=i", -errno.EINTR)))
    assert done.errno == errno.EINTR
    assert parse_verdict(Message(type=NLMSG_DONE, flags=0, sequence=1, body=b"")).errno == 0


@given(st.dictionaries(st.integers(1, 200), st.binary(max_size=40), max_size=8))
def test_attributes_come_back_as_they_were_packed(given_attributes):
    packed = b"".join(attribute(kind, payload) for kind, payload in given_attributes.items())
    assert len(packed) % 4 == 0
    assert parse_attributes(packed) == given_attributes


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data):
    for message in parse_messages(data):
        parse_attributes(message.body)
        if message.ends:
            parse_verdict(message)


def test_a_request_of_odd_length_is_padded():
    request = Request(type=16, flags=0, body=b"abc", what="")
    assert len(request.encode(1)) == 20
    assert struct.unpack_from("=I", request.encode(1))[0] == 19
