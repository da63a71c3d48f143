"""Requests are values: what they say is told in words, and encoding one changes nothing about it."""

import ipaddress

import pytest
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from forwarder.netlink import address, link, neighbour, route, rule
from forwarder.netlink.link import VethEnd
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.request import Request
from forwarder.netlink.route import Route
from forwarder.netlink.rule import Rule

MAC = bytes.fromhex("020000000001")
IP = ipaddress.ip_address("10.0.0.2")
REQUESTS = [
    link.create_veth(VethEnd(name="a", mac=MAC, mtu_bytes=1500), VethEnd(name="b", mac=MAC, mtu_bytes=9000), 42),
    link.no_ipv6_address(3),
    link.set_alias("nsm-1", "server-abc"),
    address.add(3, ipaddress.ip_interface("2001:db8::1/64")),
    neighbour.put(3, Neighbour(ip=IP, mac=MAC)),
    route.add(3, Route(destination=ipaddress.ip_network("10.0.0.0/8"), gateway=IP, table=300)),
    rule.add(Rule(version=4, table=300, source_ports=(1, 2), destination_ports=(80, 80))),
]


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


def test_a_list_ends_by_itself() -> None:
    (message,) = MarshalRtnl().parse(link.list_all().encode(7))
    assert message["header"]["flags"] & (NLM_F_DUMP | NLM_F_ACK) == NLM_F_DUMP


def test_an_attribute_that_there_is_not_is_a_bug_and_not_left_out() -> None:
    with pytest.raises(AssertionError, match="IFLA_NOTHING"):
        Request(type=link.list_all().type, attributes=(("IFLA_NOTHING", 1),), what="ask").encode(1)


def test_routes_are_asked_for_by_link_and_table() -> None:
    four, six = route.list_ours(index=3, table=254)
    assert four.attributes == six.attributes == (("RTA_OIF", 3), ("RTA_TABLE", 254))
    assert four.fields["proto"] == six.fields["proto"] == 118
