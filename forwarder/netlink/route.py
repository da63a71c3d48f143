"""Routes through links.

Source: rtnetlink(7), linux/rtnetlink.h, net/ipv4/fib_trie.c, net/ipv6/route.c.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, rt_type
from pyroute2.netlink.rtnl.rtmsg import RT_SCOPE_LINK, RTNH_F_ONLINK

from forwarder.netlink.address import IpAddress
from forwarder.netlink.attributes import Attributes
from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.request import CREATE, DUMP, EXCLUSIVE, Message, Request

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAIN_TABLE: Final = 254

_RTN_UNICAST: Final[int] = rt_type["unicast"]
_IPV6_METRIC: Final = 512
"""Better than the 1024 of a route that says none, behind the 256 of a prefix on a link."""

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

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
    first = route.destination.version == 4
    return _request(
        RTM_NEWROUTE,
        index,
        route,
        flags=CREATE if first else EXCLUSIVE,
        what=f"add route {route} to link {index}",
        tolerate=_EXISTS if first else frozenset(),
    )


def remove(index: int, route: Route) -> Request:
    """Takes a route of ours away; one that is gone already is fine."""
    return _request(RTM_DELROUTE, index, route, flags=0, what=f"remove route {route} from link {index}", tolerate=_GONE)


def list_ours(*, index: int = 0, table: int = 0) -> list[Request]:
    """Asks for the routes with our mark, of one link or of all, in one table or in all: one request a family."""
    attributes: Attributes = (("RTA_OIF", index),) if index else ()
    if table:
        attributes += (("RTA_TABLE", table),)
    what = "list the routes" + (f" of link {index}" if index else "")
    return [_list(family, PROTOCOL, attributes, what) for family in _FAMILIES]


def list_all() -> list[Request]:
    """Asks for all routes of all tables, whoever made them: one request a family."""
    return [_list(family, 0, (), "list the routes") for family in _FAMILIES]


def parse_ours(messages: Iterable[Message]) -> list[tuple[int, Route]]:
    """Reads those with our mark from the answers of `list_ours` or `list_all` to (index of the link, route)."""
    found = []
    for message in messages:
        if message["proto"] != PROTOCOL or message["type"] != _RTN_UNICAST or message["family"] not in _FAMILIES:
            continue
        anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"  # noqa: S104 - no socket
        gateway = message.get_attr("RTA_GATEWAY")
        route = Route(
            destination=ipaddress.ip_network(f"{message.get_attr('RTA_DST', anywhere)}/{message['dst_len']}"),
            gateway=ipaddress.ip_address(gateway) if gateway else None,
            table=_table(message),
        )
        found.append((message.get_attr("RTA_OIF", 0), route))
    return found


def tables_in_use(messages: Iterable[Message]) -> frozenset[int]:
    """Returns the tables that have a route, from the answers of `list_all`."""
    return frozenset(_table(message) for message in messages)


def _table(message: Message) -> int:
    return int(message.get_attr("RTA_TABLE", message["table"]))


def _list(family: int, protocol: int, attributes: Attributes, what: str) -> Request:
    return Request(
        type=RTM_GETROUTE,
        flags=DUMP,
        fields={"family": family, "proto": protocol},
        attributes=attributes,
        what=what,
        tolerate=_NOTHING_TO_LIST,
    )


def _request(kind: int, index: int, route: Route, *, flags: int, what: str, tolerate: frozenset[int]) -> Request:
    version = route.destination.version
    attributes: Attributes = (
        ("RTA_DST", str(route.destination.network_address)),
        ("RTA_OIF", index),
        ("RTA_TABLE", route.table),
    )
    if route.gateway:
        attributes += (("RTA_GATEWAY", str(route.gateway)),)
    if version == 6:
        attributes += (("RTA_PRIORITY", _IPV6_METRIC),)
    return Request(
        type=kind,
        flags=flags,
        fields={
            "family": socket.AF_INET if version == 4 else socket.AF_INET6,
            "dst_len": route.destination.prefixlen,
            "table": route.table if route.table < 256 else 0,
            "proto": PROTOCOL,
            "scope": RT_SCOPE_LINK if version == 4 and not route.gateway else 0,
            "type": _RTN_UNICAST,
            "flags": RTNH_F_ONLINK if route.gateway else 0,
        },
        attributes=attributes,
        what=what,
        tolerate=tolerate,
    )
