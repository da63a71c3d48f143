"""Tables for policies: kept while the policy is there, the lowest free one otherwise."""

import dataclasses
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from forwarder.mechanisms import policy_tables
from forwarder.mechanisms.interface_context import Policy
from forwarder.mechanisms.policy_tables import PolicyChanges
from forwarder.netlink.route import Route

DEFAULT = Route(destination=ipaddress.ip_network("0.0.0.0/0"))
NET = Route(destination=ipaddress.ip_network("10.0.0.0/8"), gateway=ipaddress.ip_address("10.9.9.9"))

POLICIES = st.lists(
    st.builds(
        Policy,
        version=st.just(4),
        protocol=st.sampled_from([0, 6, 17]),
        destination_ports=st.sampled_from([None, (80, 80)]),
        routes=st.sampled_from([(DEFAULT,), (NET,), (DEFAULT, NET)]),
    ),
    unique_by=lambda policy: (policy.protocol, policy.destination_ports),
)


def in_table(route, table):
    return dataclasses.replace(route, table=table)


def tcp(*routes):
    return Policy(version=4, protocol=6, routes=routes or (DEFAULT,))


def start(policies, tables=()):
    return policy_tables.changes(policies, rules=[], routes=[], tables_in_use=tables)


def test_a_new_policy_takes_the_lowest_free_table():
    assert [rule.table for rule in start([tcp()]).add_rules] == [1]
    assert [rule.table for rule in start([tcp()], {1, 2, 4}).add_rules] == [3]


def test_the_kernels_own_tables_are_never_taken():
    tables = set(range(1, 253))
    assert [rule.table for rule in start([tcp()], tables).add_rules] == [256]


def test_a_policy_that_is_there_keeps_its_table():
    first = start([tcp()], {1})
    again = policy_tables.changes([tcp(NET)], rules=first.add_rules, routes=first.add_routes, tables_in_use={1, 2})
    assert again == PolicyChanges(add_routes=(in_table(NET, 2),), remove_routes=(in_table(DEFAULT, 2),))


def test_rules_of_other_interfaces_stay():
    theirs = start([tcp()]).add_rules
    mine = policy_tables.changes([], rules=theirs, routes=[], tables_in_use={1})
    assert mine == PolicyChanges()


def test_a_rule_whose_table_is_empty_is_left_over():
    rules = start([tcp()]).add_rules
    assert policy_tables.orphans(rules, {254}) == rules
    assert policy_tables.orphans(rules, {1, 254}) == ()


@given(POLICIES, POLICIES)
def test_any_change_leads_to_what_was_wanted_and_nothing_else(before, after):
    first = start(before)
    rules, routes = list(first.add_rules), list(first.add_routes)
    steps = policy_tables.changes(after, rules=rules, routes=routes, tables_in_use={rule.table for rule in rules})
    rules = [rule for rule in [*rules, *steps.add_rules] if rule not in steps.remove_rules]
    routes = [route for route in [*routes, *steps.add_routes] if route not in steps.remove_routes]
    assert len({rule.table for rule in rules}) == len(rules) == len(after)
    assert {route.table for route in routes} == {rule.table for rule in rules}
    settled = policy_tables.changes(after, rules=rules, routes=routes, tables_in_use=[])
    assert settled == PolicyChanges()
