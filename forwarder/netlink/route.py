"""Routes through links.

Source: rtnetlink(7), linux/rtnetlink.h, net/ipv4/fib_trie.c, net/ipv6/route.c.
"""

import errno
import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from forwarder.netlink.address import IpAddress
from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.message import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Message,
    Request,
    attribute,
    parse_attributes,
    u32,
)

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAIN_TABLE: Final = 254

RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_PRIORITY: Final = 6
_RTA_TABLE: Final = 15
_RTN_UNICAST: Final = 1
_RTNH_F_ONLINK: Final = 4
_SCOPE_UNIVERSE: Final = 0
_SCOPE_LINK: Final = 253
_IPV6_METRIC: Final = 512
"""Better than the 1024 of a route that says none, behind the 256 of a prefix on a link."""

_AF_INET: Final = 2
_AF_INET6: Final = 10
# struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_FIXED: Final = struct.Struct("=BBBBBBBBI")

_EXISTS: Final = frozenset({errno.EEXIST})
_GONE: Final = frozenset({errno.ESRCH, errno.ENODEV})
_NOTHING_TO_LIST: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
"""The table does not exist, or the kernel has no IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where packets to `destination` go: out of one link, to a gateway or to whoever is there."""

    destination: IpNetwork
    gateway: IpAddress | None = None
    """Taken to be on the link whatever the link's addresses are; None for a route of link scope."""
    table: int = MAIN_TABLE

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        table = f" in table {self.table}" if self.table != MAIN_TABLE else ""
        return f"{self.destination}{via}{table}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChanges:
    """What leads from the current routes to the wanted ones, in this order."""

    add: tuple[Route, ...] = ()
    remove: tuple[Route, ...] = ()


def changes(wanted: Iterable[Route], current: Iterable[Route]) -> RouteChanges:
    """Computes wanted minus current and current minus wanted, each in the order given."""
    wanted, current = tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(current))
    return RouteChanges(
        add=tuple(one for one in wanted if one not in set(current)),
        remove=tuple(one for one in current if one not in set(wanted)),
    )


def add(index: int, route: Route) -> Request:
    """Sends packets to the route's destination out of a link.

    Goes before another IPv4 route to the same destination, and IPv6 routes have a better metric
    than usual: somebody else's route stays, and serves again when ours is gone. IPv6: EEXIST when
    another of our links already has the destination, for the kernel would share flows out.
    """
    # IPv4, neither EXCL nor APPEND: in front of its equals. An identical route gives EEXIST.
    flags = NLM_F_CREATE if route.destination.version == 4 else NLM_F_CREATE | NLM_F_EXCL
    tolerate = _EXISTS if route.destination.version == 4 else frozenset[int]()
    what = f"add route {route} to link {index}"
    return Request(type=RTM_NEWROUTE, flags=flags, body=_body(index, route), what=what, tolerate=tolerate)


def remove(index: int, route: Route) -> Request:
    """Takes a route of ours away; one that is gone already is fine."""
    what = f"remove route {route} from link {index}"
    return Request(type=RTM_DELROUTE, flags=0, body=_body(index, route), what=what, tolerate=_GONE)


def list_ours(*, index: int = 0, table: int = 0) -> list[Request]:
    """Asks for the routes with our mark, of one link or of all, in one table or in all: one request a family."""
    filters = (u32(_RTA_OIF, index) if index else b"") + (u32(_RTA_TABLE, table) if table else b"")
    return [
        Request(
            type=RTM_GETROUTE,
            flags=NLM_F_DUMP,
            body=_FIXED.pack(family, 0, 0, 0, 0, PROTOCOL, 0, 0, 0) + filters,
            what="list the routes" + (f" of link {index}" if index else ""),
            tolerate=_NOTHING_TO_LIST,
        )
        for family in (_AF_INET, _AF_INET6)
    ]


def parse_ours(messages: Iterable[Message]) -> list[tuple[int, Route]]:
    """Decodes the answers of `list_ours` to (index of the link, route)."""
    found = []
    for message in messages:
        if message.type != RTM_NEWROUTE:
            continue
        family, length, _, _, table, protocol, _, kind, _ = _FIXED.unpack_from(message.body)
        if protocol != PROTOCOL or kind != _RTN_UNICAST or family not in (_AF_INET, _AF_INET6):
            continue
        have = parse_attributes(message.body, _FIXED.size)
        packed = have.get(_RTA_DST, bytes(4 if family == _AF_INET else 16))
        gateway = have.get(_RTA_GATEWAY)
        index = have.get(_RTA_OIF)
        if _RTA_TABLE in have:
            (table,) = struct.unpack("=I", have[_RTA_TABLE])
        route = Route(
            destination=ipaddress.ip_network((packed, length)),
            gateway=ipaddress.ip_address(gateway) if gateway else None,
            table=table,
        )
        found.append((struct.unpack("=I", index)[0] if index else 0, route))
    return found


def list_all() -> list[Request]:
    """Asks for all routes of all tables, whoever made them: one request a family."""
    return [
        Request(
            type=RTM_GETROUTE,
            flags=NLM_F_DUMP,
            body=_FIXED.pack(family, 0, 0, 0, 0, 0, 0, 0, 0),
            what="list the routes",
            tolerate=_NOTHING_TO_LIST,
        )
        for family in (_AF_INET, _AF_INET6)
    ]


def tables_in_use(messages: Iterable[Message]) -> frozenset[int]:
    """Returns the tables that have a route, from the answers of `list_all`."""
    found = set()
    for message in messages:
        if message.type == RTM_NEWROUTE:
            table = parse_attributes(message.body, _FIXED.size).get(_RTA_TABLE)
            found.add(struct.unpack("=I", table)[0] if table else _FIXED.unpack_from(message.body)[4])
    return frozenset(found)


def _body(index: int, route: Route) -> bytes:
    family = _AF_INET if route.destination.version == 4 else _AF_INET6
    fixed = _FIXED.pack(
        family,
        route.destination.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        PROTOCOL,
        _SCOPE_UNIVERSE if route.gateway or family == _AF_INET6 else _SCOPE_LINK,
        _RTN_UNICAST,
        _RTNH_F_ONLINK if route.gateway else 0,
    )
    body = fixed + attribute(_RTA_DST, route.destination.network_address.packed) + u32(_RTA_OIF, index)
    if route.gateway:
        body += attribute(_RTA_GATEWAY, route.gateway.packed)
    if family == _AF_INET6:
        body += u32(_RTA_PRIORITY, _IPV6_METRIC)
    return body + u32(_RTA_TABLE, route.table)
