"""Requests are values: what they say is told in words, and encoding one changes nothing about it."""

import dataclasses
import ipaddress

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK, RTM_NEWTFILTER
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from forwarder.netlink import address, link, neighbour, nsid, route, rule, wire
from forwarder.netlink.attributes import KNOWN, Attributes
from forwarder.netlink.link import VethEnd
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.request import Request
from forwarder.netlink.route import Route
from forwarder.netlink.rule import Rule
from forwarder.netlink.wire import pieces

MAC = bytes.fromhex("020000000001")
IP = ipaddress.ip_address("10.0.0.2")
REQUESTS = [
    link.create_veth(VethEnd(name="a", mac=MAC, mtu_bytes=1500), VethEnd(name="b", mac=MAC, mtu_bytes=9000), 42),
    link.no_ipv6_address(3),
    link.set_alias("nsm-1", "server-abc"),
    address.add(3, ipaddress.ip_interface("2001:db8::1/64")),
    neighbour.put(3, Neighbour(ip=IP, mac=MAC)),
    neighbour.put(3, Neighbour(ip=ipaddress.ip_address("2001:db8::2"), mac=MAC)),
    route.add(3, Route(destination=ipaddress.ip_network("10.0.0.0/8"), gateway=IP, table=300)),
    route.add(3, Route(destination=ipaddress.ip_network("2001:db8::/48"))),
    rule.add(Rule(version=4, table=300, source_ports=(1, 2), destination_ports=(80, 80))),
    rule.add(Rule(version=6, table=300, source=ipaddress.ip_network("2001:db8::/48"), protocol=17)),
    link.set_group(3, 0x80000001),
    nsid.order(9),
]
QUESTIONS = [
    link.get("a", nsid=4),
    link.list_all(kind="veth"),
    neighbour.list_of(3),
    nsid.question(9),
    *rule.list_all(),
]
FILTER = Request(
    type=RTM_NEWTFILTER,
    fields={"index": 3, "parent": 0xFFFFFFF2},
    attributes=(
        ("TCA_KIND", "bpf"),
        ("TCA_OPTIONS", (("TCA_BPF_FD", 9), ("TCA_BPF_NAME", "drop"), ("TCA_BPF_FLAGS", 1))),
    ),
    what="set a filter",
)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.what)
def test_a_request_can_be_sent_again(request_: Request) -> None:
    assert request_.encode(7) == request_.encode(7)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.what)
def test_an_order_is_acknowledged_and_numbered(request_: Request) -> None:
    (message,) = MarshalRtnl().parse(request_.encode(7))
    assert (message["header"]["type"], message["header"]["sequence_number"]) == (request_.type, 7)
    assert message["header"]["flags"] & NLM_F_ACK
    (message,) = MarshalRtnl().parse(request_.encode(7, ack=False))
    assert not message["header"]["flags"] & NLM_F_ACK


@pytest.mark.parametrize("request_", [*REQUESTS, *QUESTIONS, FILTER], ids=lambda request: request.what)
def test_a_request_goes_to_the_kernel_as_pyroute2_encodes_the_whole_message(request_: Request) -> None:
    message = MarshalRtnl.msg_map[request_.type]()
    message.update(request_.fields)
    message["attrs"] = _lists(request_.attributes)
    message["header"] = {"type": request_.type, "flags": request_.flags | NLM_F_REQUEST, "sequence_number": 7}
    message.encode()
    assert request_.encode(7, ack=False) == bytes(message.data)


def test_each_attribute_is_compared_with_pyroute2() -> None:
    def names(attributes: Attributes) -> set[str]:
        inner = [names(value) for _, value in attributes if isinstance(value, tuple)]
        return {name for name, _ in attributes}.union(*inner)

    assert set().union(*(names(each.attributes) for each in [*REQUESTS, *QUESTIONS, FILTER])) == KNOWN.keys()


def _lists(attributes: Attributes) -> list[tuple[str, object]]:
    return [(name, {"attrs": _lists(value)} if isinstance(value, tuple) else value) for name, value in attributes]


@pytest.mark.parametrize("kind", [RTM_NEWLINK, RTM_DELLINK])
def test_of_broken_messages_about_a_link_only_what_is_whole_is_read(kind: int) -> None:
    request_ = dataclasses.replace(link.set_alias("nsm-1", "server-abc"), type=kind, fields={"index": 5})
    data = request_.encode(7) + request_.encode(8)
    first, second = pieces(data)
    assert (first.kind, first.sequence, second.sequence) == (kind, 7, 8)
    body = second.body(data)
    assert wire.link_index(body) == wire.ReadMessage(RTM_NEWLINK, body)["index"] == 5
    assert wire.ReadMessage(RTM_NEWLINK, body).get_attr("IFLA_IFALIAS") == "server-abc"
    assert wire.ReadMessage(RTM_NEWLINK, body).get_attr("IFLA_MTU", 1) == 1
    for length in range(len(data)):
        assert all(piece.sequence == 7 for piece in pieces(data[:length]))
    for length in range(16, len(body)):
        assert wire.ReadMessage(RTM_NEWLINK, body[:length]).get_attr("IFLA_IFALIAS") in (None, "server-abc")
    assert list(pieces(bytes(64))) == []


def test_a_link_is_read_as_pyroute2_reads_it() -> None:
    message = MarshalRtnl.msg_map[RTM_NEWLINK]()
    message.update({"index": 5, "flags": link.IFF_UP})
    counters = {"rx_packets": 1, "tx_packets": 2, "rx_bytes": 3, "tx_bytes": 4, "rx_dropped": 7, "tx_dropped": 8}
    message["attrs"] = [
        ("IFLA_IFNAME", "nsm-1"),
        ("IFLA_ADDRESS", MAC.hex(":")),
        ("IFLA_MTU", 9000),
        ("IFLA_LINK", 77),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
        ("IFLA_IFALIAS", "server-abc"),
        ("IFLA_STATS64", counters),
        ("IFLA_GROUP", 0x80000001),
        ("IFLA_LINK_NETNSID", 3),
    ]
    message["header"] = {"type": RTM_NEWLINK}
    message.encode()
    data = bytes(message.data)
    (theirs,) = MarshalRtnl().parse(data)
    (piece,) = pieces(data)
    read = link.parse(wire.ReadMessage(RTM_NEWLINK, piece.body(data)))
    assert read == link.parse(theirs)
    assert (read.index, read.kind, read.peer_nsid, read.mac, read.up) == (5, "veth", 3, MAC, True)
    assert read.statistics is not None
    assert read.statistics.send_drops == 8


def test_a_list_ends_by_itself() -> None:
    (message,) = MarshalRtnl().parse(link.list_all().encode(7))
    assert message["header"]["flags"] & (NLM_F_DUMP | NLM_F_ACK) == NLM_F_DUMP


def test_an_attribute_that_there_is_not_is_a_bug_and_not_left_out() -> None:
    with pytest.raises(KeyError, match="IFLA_NOTHING"):
        Request(type=link.list_all().type, attributes=(("IFLA_NOTHING", 1),), what="ask").encode(1)


def test_routes_are_asked_for_by_link_and_table() -> None:
    four, six = route.list_ours(index=3, table=254)
    assert four.attributes == six.attributes == (("RTA_OIF", 3), ("RTA_TABLE", 254))
    assert four.fields["proto"] == six.fields["proto"] == 118
