"""What a context implies: addresses, link routes, next hops, port ranges."""

from ipaddress import ip_interface, ip_network

import pytest

from forwarder.api import context
from forwarder.api.connectioncontext_pb2 import IPContext, Route
from forwarder.api.context import Side
from forwarder.errors import InvalidRequest

CLIENT, ENDPOINT = Side.CLIENT, Side.ENDPOINT


def test_addresses_keep_their_host_bits() -> None:
    given = IPContext(src_ip_addrs=["172.16.1.101/24", "2001:db8::5/64"], dst_ip_addrs=["172.16.1.100/32"])
    assert context.addresses(given, CLIENT) == [ip_interface("172.16.1.101/24"), ip_interface("2001:db8::5/64")]
    assert context.addresses(given, ENDPOINT) == [ip_interface("172.16.1.100/32")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "172.16.1.1",
        "172.16.1.1/33",
        "172.16.1/24",
        "1.2.3.4/255.255.255.0",
        "1.2.3.4/0.0.0.255",
        "::1/129",
        "fe80::1%eth0/64",
        " 1.2.3.4/8",
        "1.2.3.4/8 ",
        "01.2.3.4/8",
        "a/8",
        "1.2.3.4/-1",
        "/8",
        "1.2.3.4/٣",
    ],
)
def test_what_is_no_cidr_is_left_out(text: str) -> None:
    assert context.interface(text) is None
    assert context.interfaces([text, "10.0.0.1/8"]) == [ip_interface("10.0.0.1/8")]


@pytest.mark.parametrize(
    ("src", "dst", "client", "endpoint"),
    [
        (["172.16.1.101/32"], ["172.16.1.100/32"], ["172.16.1.100/32"], ["172.16.1.101/32"]),
        (["172.16.1.101/24"], ["172.16.1.100/24"], [], []),
        (["172.16.1.101/24"], ["172.16.1.100/32"], [], ["172.16.1.0/24"]),
        (
            ["10.0.0.1/32", "2001:db8::1/128"],
            ["2001:db8::/128"],
            ["2001:db8::/128"],
            ["10.0.0.1/32", "2001:db8::1/128"],
        ),
        (["::/0"], ["10.0.0.1/32"], ["10.0.0.1/32"], ["::/0"]),
        ([], ["10.0.0.1/32"], ["10.0.0.1/32"], []),
        (["junk"], ["10.0.0.1/32", "junk"], ["10.0.0.1/32"], []),
    ],
)
def test_link_routes_reach_the_peer_s_addresses_outside_one_s_own_prefixes(
    src: list[str], dst: list[str], client: list[str], endpoint: list[str]
) -> None:
    given = IPContext(src_ip_addrs=src, dst_ip_addrs=dst)
    assert context.link_routes(given, CLIENT) == [ip_network(each) for each in client]
    assert context.link_routes(given, ENDPOINT) == [ip_network(each) for each in endpoint]


@pytest.mark.parametrize(
    ("prefix", "next_hop", "expected"),
    [
        ("0.0.0.0/0", "", "172.16.1.100"),
        ("::/0", "", "2001:db8::a"),
        ("10.1.0.0/16", "", "172.16.1.100"),
        ("172.16.1.100/32", "", ""),
        ("10.9.0.1/32", "", ""),
        ("2001:db8::a/128", "", ""),
        ("10.1.0.0/16", "10.1.2.3", "10.1.2.3"),
        ("10.1.0.0/16", "junk", "172.16.1.100"),
        ("junk", "", ""),
    ],
)
def test_a_route_without_next_hop_goes_by_the_peer_s_first_address(prefix: str, next_hop: str, expected: str) -> None:
    peer = ["junk", "172.16.1.100/32", "10.9.0.5/24", "2001:db8::a/128"]
    route = Route(prefix=prefix, nextHop=next_hop)
    at_client = IPContext(dst_ip_addrs=peer, src_routes=[route])
    at_endpoint = IPContext(src_ip_addrs=peer, dst_routes=[route])
    assert [each.nextHop for each in context.routes(at_client, CLIENT)] == [expected]
    assert [each.nextHop for each in context.routes(at_endpoint, ENDPOINT)] == [expected]
    assert at_client.src_routes[0].nextHop == next_hop


def test_a_route_has_no_next_hop_without_a_peer_address_of_its_family() -> None:
    given = IPContext(dst_ip_addrs=["2001:db8::a/128"], src_routes=[Route(prefix="0.0.0.0/0")])
    assert [each.nextHop for each in context.routes(given, CLIENT)] == [""]


def test_sides_are_opposite() -> None:
    assert CLIENT.other is ENDPOINT
    assert ENDPOINT.other is CLIENT


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("0", (0, 0)), ("80", (80, 80)), ("80-90", (80, 90)), ("65535", (65535, 65535)), ("7-7", (7, 7))],
)
def test_port_ranges(text: str, expected: tuple[int, int] | None) -> None:
    assert context.port_range(text) == expected


@pytest.mark.parametrize("text", ["65536", "90-80", "-", "1-", "-1", "a", "1-2-3", " 1", "1,2", "0x1", "\u0661"])
def test_bad_port_ranges_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        context.port_range(text)
    assert repr(text) in str(caught.value)
