"""Which routing table each policy has, and what leads from the current rules to the wanted ones.

A rule of ours belongs to an interface when the rule's table has a route out of it: that can be
read back from the kernel, so nothing has to be remembered over a restart. A rule whose table is
empty is left over from an interface that has gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from forwarder.mechanisms.interface_context import Policy
from forwarder.netlink.route import Route
from forwarder.netlink.rule import Rule

_RESERVED: Final = frozenset({0, 253, 254, 255})
"""unspec, default, main, local: linux/rtnetlink.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChanges:
    """What leads from the current tables and rules to the wanted ones, in this order.

    A table is filled before a rule leads there, and emptied after no rule does.
    """

    add_routes: tuple[Route, ...] = ()
    add_rules: tuple[Rule, ...] = ()
    remove_rules: tuple[Rule, ...] = ()
    remove_routes: tuple[Route, ...] = ()


def changes(
    wanted: Iterable[Policy],
    *,
    rules: Iterable[Rule],
    routes: Iterable[Route],
    tables_in_use: Iterable[int],
) -> PolicyChanges:
    """Computes the changes for one interface.

    `rules` are all of ours in the namespace; `routes` those of ours out of this interface, of all
    tables; `tables_in_use` every table with a rule or a route of anybody. A policy that is there
    keeps its table; a new one takes the lowest that is free, from 1.
    """
    by_table: dict[int, list[Route]] = {}
    for route in routes:
        by_table.setdefault(route.table, []).append(route)
    current = {_key(rule): rule for rule in rules if rule.table in by_table}
    taken = {*tables_in_use, *by_table, *_RESERVED}
    add_routes: list[Route] = []
    add_rules: list[Rule] = []
    remove_routes: list[Route] = []
    for policy in wanted:
        rule = current.pop(_key_of(policy), None)
        if rule is None:
            table = _lowest_free(taken)
            taken.add(table)
            rule = _rule(policy, table)
            add_rules.append(rule)
        have = by_table.get(rule.table, [])
        want = [Route(destination=each.destination, gateway=each.gateway, table=rule.table) for each in policy.routes]
        add_routes += _missing(want, have)
        remove_routes += _missing(have, want)
    for rule in current.values():
        remove_routes += by_table[rule.table]
    return PolicyChanges(
        add_routes=tuple(add_routes),
        add_rules=tuple(add_rules),
        remove_rules=tuple(current.values()),
        remove_routes=tuple(remove_routes),
    )


def orphans(rules: Iterable[Rule], tables_with_routes: Iterable[int]) -> tuple[Rule, ...]:
    """Returns those of our rules whose table has no route any more."""
    filled = set(tables_with_routes)
    return tuple(rule for rule in rules if rule.table not in filled)


def _missing(wanted: Sequence[Route], current: Sequence[Route]) -> list[Route]:
    return [route for route in wanted if route not in current]


def _lowest_free(taken: set[int]) -> int:
    table = 1
    while table in taken:
        table += 1
    return table


def _rule(policy: Policy, table: int) -> Rule:
    return Rule(
        version=policy.version,
        table=table,
        source=policy.source,
        protocol=policy.protocol,
        source_ports=policy.source_ports,
        destination_ports=policy.destination_ports,
    )


def _key_of(policy: Policy) -> tuple[object, ...]:
    return _key(_rule(policy, 0))


def _key(rule: Rule) -> tuple[object, ...]:
    source = rule.source if rule.source and rule.source.prefixlen else None
    return (rule.version, source, rule.protocol, rule.source_ports, rule.destination_ports)
