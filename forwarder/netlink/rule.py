"""Policy routing rules: which table a packet is looked up in.

Source: ip-rule(8), linux/fib_rules.h, net/core/fib_rules.c.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyroute2.netlink.rtnl import RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL

from forwarder.netlink.attributes import Attributes
from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.request import DUMP, EXCLUSIVE, Message, Request
from forwarder.netlink.route import IpNetwork

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_GONE: Final = frozenset({errno.ENOENT})
_NO_SUCH_FAMILY: Final = frozenset({errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
"""A kernel without IPv6."""

PortRange = tuple[int, int]
"""First and last port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Packets that fit all of what is given are looked up in `table`."""

    version: int
    """Of the IP: 4 or 6."""
    table: int
    source: IpNetwork | None = None
    protocol: int = 0
    """The IP protocol's number, 0 for any."""
    source_ports: PortRange | None = None
    destination_ports: PortRange | None = None

    def __str__(self) -> str:
        words = [f"IPv{self.version}", f"from {self.source or 'all'}"]
        if self.protocol:
            words.append(f"protocol {self.protocol}")
        if self.source_ports:
            words.append("from port {}-{}".format(*self.source_ports))
        if self.destination_ports:
            words.append("to port {}-{}".format(*self.destination_ports))
        return " ".join([*words, f"in table {self.table}"])


def add(rule: Rule) -> Request:
    """Adds a rule in front of those that are there, which is where the kernel puts it."""
    return _request(RTM_NEWRULE, rule, flags=EXCLUSIVE, what=f"add rule {rule}")


def remove(rule: Rule) -> Request:
    """Takes a rule of ours away; one that is gone already is fine."""
    return _request(RTM_DELRULE, rule, what=f"remove rule {rule}", tolerate=_GONE)


def list_all() -> list[Request]:
    """Asks for all rules of the namespace: one request a family."""
    return [
        Request(
            type=RTM_GETRULE, flags=DUMP, fields={"family": family}, what="list the rules", tolerate=_NO_SUCH_FAMILY
        )
        for family in _FAMILIES
    ]


def parse_ours(messages: Iterable[Message]) -> list[Rule]:
    """Reads those with our mark from the answers of `list_all`."""
    return [_parse(each) for each in messages if each.get_attr("FRA_PROTOCOL") == PROTOCOL and _leads_to_table(each)]


def tables_in_use(messages: Iterable[Message]) -> frozenset[int]:
    """Returns the tables that any rule, ours or not, leads to."""
    return frozenset(_table(each) for each in messages if _leads_to_table(each))


def _leads_to_table(message: Message) -> bool:
    return message["action"] == FR_ACT_TO_TBL and message["family"] in _FAMILIES


def _table(message: Message) -> int:
    return int(message.get_attr("FRA_TABLE", message["table"]))


def _parse(message: Message) -> Rule:
    source, length = message.get_attr("FRA_SRC"), message["src_len"]
    return Rule(
        version=4 if message["family"] == socket.AF_INET else 6,
        table=_table(message),
        source=ipaddress.ip_network(f"{source}/{length}") if source and length else None,
        protocol=message.get_attr("FRA_IP_PROTO", 0),
        source_ports=_range(message.get_attr("FRA_SPORT_RANGE")),
        destination_ports=_range(message.get_attr("FRA_DPORT_RANGE")),
    )


def _range(told: str | None) -> PortRange | None:
    if told is None:
        return None
    first, last = told.split(":")
    return (int(first), int(last))


def _request(kind: int, rule: Rule, *, what: str, flags: int = 0, tolerate: frozenset[int] = frozenset()) -> Request:
    length = rule.source.prefixlen if rule.source else 0
    attributes: Attributes = (("FRA_TABLE", rule.table), ("FRA_PROTOCOL", PROTOCOL))
    if rule.source and length:
        attributes += (("FRA_SRC", str(rule.source.network_address)),)
    if rule.protocol:
        attributes += (("FRA_IP_PROTO", rule.protocol),)
    if rule.source_ports:
        attributes += (("FRA_SPORT_RANGE", "{}:{}".format(*rule.source_ports)),)
    if rule.destination_ports:
        attributes += (("FRA_DPORT_RANGE", "{}:{}".format(*rule.destination_ports)),)
    return Request(
        type=kind,
        flags=flags,
        fields={
            "family": socket.AF_INET if rule.version == 4 else socket.AF_INET6,
            "src_len": length,
            "table": rule.table if rule.table < 256 else 0,
            "action": FR_ACT_TO_TBL,
        },
        attributes=attributes,
        what=what,
        tolerate=tolerate,
    )
