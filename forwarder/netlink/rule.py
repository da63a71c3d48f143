"""Policy routing rules: which table a packet is looked up in.

Source: ip-rule(8), linux/fib_rules.h, net/core/fib_rules.c.
"""

import errno
import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.message import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Message,
    Request,
    attribute,
    parse_attributes,
    u8,
    u32,
)
from forwarder.netlink.route import IpNetwork

RTM_NEWRULE: Final = 32
RTM_DELRULE: Final = 33
RTM_GETRULE: Final = 34

_FRA_SRC: Final = 2
_FRA_TABLE: Final = 15
_FRA_PROTOCOL: Final = 21
_FRA_IP_PROTO: Final = 22
_FRA_SPORT_RANGE: Final = 23
_FRA_DPORT_RANGE: Final = 24
_FR_ACT_TO_TABLE: Final = 1

_AF_INET: Final = 2
_AF_INET6: Final = 10
# struct fib_rule_hdr: family, dst_len, src_len, tos, table, res1, res2, action, flags
_FIXED: Final = struct.Struct("=BBBBBxxBI")
_RANGE: Final = struct.Struct("=HH")

_GONE: Final = frozenset({errno.ENOENT})

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
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(type=RTM_NEWRULE, flags=flags, body=_body(rule), what=f"add rule {rule}")


def remove(rule: Rule) -> Request:
    """Takes a rule of ours away; one that is gone already is fine."""
    return Request(type=RTM_DELRULE, flags=0, body=_body(rule), what=f"remove rule {rule}", tolerate=_GONE)


def list_all() -> list[Request]:
    """Asks for all rules of the namespace: one request a family."""
    # EOPNOTSUPP: a kernel without IPv6
    tolerate = frozenset({errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
    return [
        Request(
            type=RTM_GETRULE,
            flags=NLM_F_DUMP,
            body=_FIXED.pack(family, 0, 0, 0, 0, 0, 0),
            what="list the rules",
            tolerate=tolerate,
        )
        for family in (_AF_INET, _AF_INET6)
    ]


def parse_ours(messages: Iterable[Message]) -> list[Rule]:
    """Decodes those with our mark from the answers of `list_all`."""
    return [rule for ours, rule in _parse_all(messages) if ours]


def tables_in_use(messages: Iterable[Message]) -> frozenset[int]:
    """Returns the tables that any rule, ours or not, leads to."""
    return frozenset(rule.table for _, rule in _parse_all(messages))


def _parse_all(messages: Iterable[Message]) -> Iterable[tuple[bool, Rule]]:
    for message in messages:
        if message.type != RTM_NEWRULE:
            continue
        family, _, length, _, table, action, _ = _FIXED.unpack_from(message.body)
        if action != _FR_ACT_TO_TABLE or family not in (_AF_INET, _AF_INET6):
            continue
        have = parse_attributes(message.body, _FIXED.size)
        if _FRA_TABLE in have:
            (table,) = struct.unpack("=I", have[_FRA_TABLE])
        source = have.get(_FRA_SRC)
        protocol = have.get(_FRA_IP_PROTO)
        yield (
            have.get(_FRA_PROTOCOL) == bytes([PROTOCOL]),
            Rule(
                version=4 if family == _AF_INET else 6,
                table=table,
                source=ipaddress.ip_network((source, length)) if source and length else None,
                protocol=protocol[0] if protocol else 0,
                source_ports=_range(have.get(_FRA_SPORT_RANGE)),
                destination_ports=_range(have.get(_FRA_DPORT_RANGE)),
            ),
        )


def _range(payload: bytes | None) -> PortRange | None:
    if payload is None:
        return None
    first, last = _RANGE.unpack(payload)
    return (first, last)


def _body(rule: Rule) -> bytes:
    family = _AF_INET if rule.version == 4 else _AF_INET6
    length = rule.source.prefixlen if rule.source else 0
    body = _FIXED.pack(family, 0, length, 0, rule.table if rule.table < 256 else 0, _FR_ACT_TO_TABLE, 0)
    if rule.source and length:
        body += attribute(_FRA_SRC, rule.source.network_address.packed)
    if rule.protocol:
        body += u8(_FRA_IP_PROTO, rule.protocol)
    if rule.source_ports:
        body += attribute(_FRA_SPORT_RANGE, _RANGE.pack(*rule.source_ports))
    if rule.destination_ports:
        body += attribute(_FRA_DPORT_RANGE, _RANGE.pack(*rule.destination_ports))
    return body + u32(_FRA_TABLE, rule.table) + u8(_FRA_PROTOCOL, PROTOCOL)
