"""Point-to-point addresses: who gets which pair, and when it comes back."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.api import connectioncontext_pb2 as pb
from forwarder.errors import ConfigError, RequestError
from forwarder.mesh.ipam import AddressPool, PointToPointIpam, Policy


def assigned(ipam, connection_id, context=None):
    context = pb.IPContext() if context is None else context
    ipam.assign(connection_id, context)
    return context


def test_the_first_address_is_the_endpoints_and_the_second_the_clients():
    context = assigned(PointToPointIpam([["172.16.1.100/31"]]), "c")
    assert context.dst_ip_addrs == ["172.16.1.100/32"]
    assert context.src_ip_addrs == ["172.16.1.101/32"]
    assert [route.prefix for route in context.src_routes] == ["172.16.1.100/32"]
    assert [route.prefix for route in context.dst_routes] == ["172.16.1.101/32"]


def test_ipv6_addresses_are_host_prefixes_too():
    context = assigned(PointToPointIpam([["fd00::/64"]]), "c")
    assert context.dst_ip_addrs == ["fd00::/128"]
    assert context.src_ip_addrs == ["fd00::1/128"]


def test_two_groups_make_a_dual_stack():
    context = assigned(PointToPointIpam([["10.0.0.0/24"], ["fd00::/64"]]), "c")
    assert context.dst_ip_addrs == ["10.0.0.0/32", "fd00::/128"]
    assert context.src_ip_addrs == ["10.0.0.1/32", "fd00::1/128"]


def test_a_group_goes_on_with_its_next_prefix_when_one_is_full():
    ipam = PointToPointIpam([["10.0.0.0/31", "10.1.0.0/31"]])
    assert assigned(ipam, "a").dst_ip_addrs == ["10.0.0.0/32"]
    assert assigned(ipam, "b").dst_ip_addrs == ["10.1.0.0/32"]
    with pytest.raises(RequestError, match=r"10\.0\.0\.0/31, 10\.1\.0\.0/31.*none are free"):
        assigned(ipam, "c")


def test_a_connection_keeps_its_pair_and_gets_no_second_entry():
    ipam = PointToPointIpam([["10.0.0.0/24"]])
    context = assigned(ipam, "c")
    once = context.SerializeToString(deterministic=True)
    assert assigned(ipam, "c", context).SerializeToString(deterministic=True) == once


def test_a_released_pair_is_given_again():
    ipam = PointToPointIpam([["10.0.0.0/31"]])
    first = assigned(ipam, "a")
    ipam.release("a")
    assert assigned(ipam, "b") == first
    ipam.release("nobody")


def test_when_one_group_is_full_nothing_is_taken_from_the_others():
    ipam = PointToPointIpam([["10.0.0.0/30"], ["10.1.0.0/31"]])
    assigned(ipam, "a")
    context = pb.IPContext()
    with pytest.raises(RequestError):
        ipam.assign("b", context)
    assert context == pb.IPContext()
    ipam.release("a")
    assert assigned(ipam, "c").dst_ip_addrs == ["10.0.0.0/32", "10.1.0.0/32"]


def test_excluded_addresses_are_passed_over():
    context = pb.IPContext(excluded_prefixes=["10.0.0.0/31", "10.0.0.3/32", "nonsense"])
    assigned(PointToPointIpam([["10.0.0.0/24"]]), "c", context)
    assert context.dst_ip_addrs == ["10.0.0.2/32"]
    assert context.src_ip_addrs == ["10.0.0.4/32"]


def test_a_pair_that_became_excluded_is_replaced():
    ipam = PointToPointIpam([["10.0.0.0/24"]])
    context = assigned(ipam, "c")
    context.excluded_prefixes.append("10.0.0.0/28")
    ipam.assign("c", context)
    assert context.dst_ip_addrs == ["10.0.0.16/32"]
    assert context.src_ip_addrs == ["10.0.0.17/32"]
    assert [route.prefix for route in context.src_routes] == ["10.0.0.16/32"]
    assert [route.prefix for route in context.dst_routes] == ["10.0.0.17/32"]
    assert assigned(ipam, "d").dst_ip_addrs == ["10.0.0.0/32"]


def test_a_pair_that_became_excluded_without_room_elsewhere_is_kept_on_record():
    ipam = PointToPointIpam([["10.0.0.0/31"]])
    context = assigned(ipam, "c")
    context.excluded_prefixes.append("10.0.0.0/31")
    with pytest.raises(RequestError):
        ipam.assign("c", context)
    with pytest.raises(RequestError):
        assigned(ipam, "d")
    ipam.release("c")
    assigned(ipam, "d")


def test_after_a_restart_a_connection_takes_its_pair_back():
    context = pb.IPContext(src_ip_addrs=["10.0.0.9/32"], dst_ip_addrs=["10.0.0.8/32"])
    ipam = PointToPointIpam([["10.0.0.0/24"]])
    assigned(ipam, "c", context)
    assert context.dst_ip_addrs == ["10.0.0.8/32"]
    assert context.src_ip_addrs == ["10.0.0.9/32"]


def test_a_pair_that_another_connection_holds_is_not_taken_back():
    ipam = PointToPointIpam([["10.0.0.0/24"]])
    held = assigned(ipam, "holder")
    claim = pb.IPContext()
    claim.CopyFrom(held)
    assigned(ipam, "claimant", claim)
    assert set(claim.src_ip_addrs).isdisjoint(held.src_ip_addrs)
    assert set(claim.dst_ip_addrs).isdisjoint(held.dst_ip_addrs)
    assert [route.prefix for route in claim.src_routes] == claim.dst_ip_addrs


def test_the_polite_policy_keeps_addresses_from_elsewhere():
    context = pb.IPContext(
        src_ip_addrs=["192.0.2.1/24"], dst_ip_addrs=["192.0.2.2/24"], src_routes=[pb.Route(prefix="192.0.2.2/32")]
    )
    assigned(PointToPointIpam([["10.0.0.0/24"]]), "c", context)
    assert context.src_ip_addrs == ["192.0.2.1/24", "10.0.0.1/32"]
    assert context.dst_ip_addrs == ["192.0.2.2/24", "10.0.0.0/32"]


def test_the_strict_policy_drops_addresses_from_elsewhere():
    context = pb.IPContext(
        src_ip_addrs=["192.0.2.1/24"],
        dst_ip_addrs=["192.0.2.2/24"],
        src_routes=[pb.Route(prefix="192.0.2.2/32"), pb.Route(prefix="198.51.100.0/24")],
    )
    assigned(PointToPointIpam([["10.0.0.0/24"]], Policy.STRICT), "c", context)
    assert context.src_ip_addrs == ["10.0.0.1/32"]
    assert context.dst_ip_addrs == ["10.0.0.0/32"]
    assert [route.prefix for route in context.src_routes] == ["198.51.100.0/24", "10.0.0.0/32"]


def test_prefixes_that_are_none_or_overlap_are_refused():
    with pytest.raises(ConfigError, match=r"10\.0\.0\.300"):
        PointToPointIpam([["10.0.0.300/24"]])
    with pytest.raises(ConfigError, match="overlaps"):
        PointToPointIpam([["10.0.0.0/24"], ["10.0.0.128/25"]])


operations = st.lists(
    st.one_of(
        st.tuples(st.just("pair"), st.lists(st.integers(0, 31), max_size=4)),
        st.tuples(st.just("take"), st.integers(0, 40)),
        st.tuples(st.just("give"), st.integers(0, 100)),
    ),
    max_size=60,
)


@given(operations)
def test_a_pool_behaves_like_a_set_of_free_numbers(steps):
    pool = AddressPool(ip_network("10.0.0.0/27"))
    base = int(ip_address("10.0.0.0"))
    free, taken = set(range(32)), []
    for what, argument in steps:
        if what == "pair":
            usable = sorted(free - set(argument))
            spans = [(base + number, base + number) for number in sorted(set(argument))]
            expected = usable[:2] if len(usable) >= 2 else None
            got = pool.pair(spans)
            assert (None if got is None else [int(a) - base for a in got]) == expected
            if expected:
                free -= set(expected)
                taken += expected
        elif what == "take":
            assert pool.take(ip_address(base + argument)) == (argument in free)
            if argument in free:
                free.remove(argument)
                taken.append(argument)
        elif taken:
            number = taken.pop(argument % len(taken))
            pool.give_back(ip_address(base + number))
            free.add(number)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.sampled_from(["", "10.0.0.0/29", "10.0.0.8/30"]))),
    st.sampled_from(Policy),
)
def test_no_two_connections_ever_share_an_address(steps, policy):
    ipam = PointToPointIpam([["10.0.0.0/28", "10.9.0.0/29"], ["fd00::/124"]], policy)
    live = {}
    for name, opens, exclude in steps:
        if not opens:
            ipam.release(name)
            live.pop(name, None)
            continue
        context = pb.IPContext()
        context.CopyFrom(live.get(name, context))
        context.excluded_prefixes[:] = [exclude] if exclude else []
        try:
            ipam.assign(name, context)
        except RequestError:
            continue
        live[name] = context
        everything = [a for c in live.values() for a in [*c.src_ip_addrs, *c.dst_ip_addrs]]
        assert len(everything) == len(set(everything)) == 4 * len(live)
