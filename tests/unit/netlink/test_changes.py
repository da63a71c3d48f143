"""Wanted minus current: what is there stays untouched, and the new comes before the old goes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.netlink import address, link, neighbour, route
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.route import Route

A, B, C = (ipaddress.ip_interface(f"10.0.0.{n}/24") for n in (1, 2, 3))
ADDRESSES = st.lists(st.sampled_from([A, B, C, ipaddress.ip_interface("2001:db8::1/64")]))


def hop(destination, gateway=None):
    return Route(
        destination=ipaddress.ip_network(destination), gateway=ipaddress.ip_address(gateway) if gateway else None
    )


def test_what_is_there_is_not_touched():
    assert address.changes([A, B], [B, A]) == address.AddressChanges()
    assert route.changes([hop("10.0.0.0/8")], [hop("10.0.0.0/8")]) == route.RouteChanges()


def test_addresses_are_added_and_removed():
    assert address.changes([A, B], [B, C]) == address.AddressChanges(add=(A,), remove=(C,))


def test_an_ipv6_address_whose_prefix_changes_is_removed_first():
    short, long = ipaddress.ip_interface("2001:db8::1/64"), ipaddress.ip_interface("2001:db8::1/128")
    assert address.changes([long], [short]) == address.AddressChanges(remove_first=(short,), add=(long,))


def test_an_ipv4_address_may_have_two_prefixes_for_a_moment():
    wide = ipaddress.ip_interface("10.0.0.1/8")
    assert address.changes([wide], [A]) == address.AddressChanges(add=(wide,), remove=(A,))


@given(ADDRESSES, ADDRESSES)
def test_applying_the_changes_gives_what_was_wanted(wanted, current):
    steps = address.changes(wanted, current)
    have = set(current) - set(steps.remove_first)
    assert not have & set(steps.add)
    assert (have | set(steps.add)) - set(steps.remove) == set(wanted)
    assert address.changes(wanted, wanted) == address.AddressChanges()


def test_a_route_with_another_gateway_is_another_route():
    old, new = hop("10.0.0.0/8", "10.1.1.1"), hop("10.0.0.0/8", "10.1.1.2")
    assert route.changes([new], [old]) == route.RouteChanges(add=(new,), remove=(old,))


def test_a_neighbour_that_moved_is_put_again_and_not_removed():
    ip, other = ipaddress.ip_address("10.0.0.9"), ipaddress.ip_address("10.0.0.8")
    old = Neighbour(ip=ip, mac=bytes(6))
    new = Neighbour(ip=ip, mac=bytes([2] * 6))
    gone = Neighbour(ip=other, mac=bytes(6))
    assert neighbour.changes([new], [old, gone]) == neighbour.NeighbourChanges(put=(new,), remove=(other,))
    assert neighbour.changes([new], [new]) == neighbour.NeighbourChanges()


@pytest.mark.parametrize("name", ["nsm-1", "a", "x" * 15, "net.1", "straße"])
def test_names_that_links_can_have(name):
    assert link.name_fault(name) == ""


@pytest.mark.parametrize(
    "name", ["", "x" * 16, "ä" * 8, ".", "..", "a/b", "a b", "a:1", "eth%d", "a\0b", "a\x7f", "all", "default", "a\n"]
)
def test_names_that_links_cannot_have(name):
    assert link.name_fault(name)


def test_made_up_hardware_addresses_are_local_and_no_groups():
    assert all(mac[0] & 3 == 2 and len(mac) == 6 for mac in (link.random_mac() for _ in range(100)))
