"""Neighbours: which hardware address stands behind an IP address on a link.

Source: rtnetlink(7), linux/neighbour.h, net/core/neighbour.c.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyroute2.netlink.rtnl import RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT, NUD_REACHABLE

from forwarder.netlink.address import IpAddress
from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.request import DUMP, REPLACE, Message, Request

_GONE: Final = frozenset({errno.ENOENT, errno.ENODEV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Somebody on a link."""

    ip: IpAddress
    mac: bytes
    permanent: bool = False
    """Kept until it is removed; otherwise the kernel asks again after a while, as for any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourChanges:
    """What leads from the current neighbours to the wanted ones, in this order."""

    put: tuple[Neighbour, ...] = ()
    """New, or with another hardware address: one order does both."""
    remove: tuple[IpAddress, ...] = ()


def changes(wanted: Iterable[Neighbour], current: Iterable[Neighbour]) -> NeighbourChanges:
    """Computes what to put and what to remove; an address is a neighbour once, and the last wanted wins."""
    by_ip = {one.ip: one for one in wanted}
    have = {one.ip: one for one in current}
    return NeighbourChanges(
        put=tuple(one for one in by_ip.values() if have.get(one.ip) != one),
        remove=tuple(ip for ip in have if ip not in by_ip),
    )


def put(index: int, neighbour: Neighbour) -> Request:
    """Tells the kernel of a neighbour, in place of what it knew."""
    return Request(
        type=RTM_NEWNEIGH,
        flags=REPLACE,
        fields=_fields(index, neighbour.ip) | {"state": NUD_PERMANENT if neighbour.permanent else NUD_REACHABLE},
        attributes=(
            ("NDA_DST", str(neighbour.ip)),
            ("NDA_LLADDR", neighbour.mac.hex(":")),
            ("NDA_PROTOCOL", PROTOCOL),
        ),
        what=f"add neighbour {neighbour.ip} at {neighbour.mac.hex(':')} to link {index}",
    )


def remove(index: int, ip: IpAddress) -> Request:
    """Makes the kernel forget a neighbour; one that it does not know is fine."""
    return Request(
        type=RTM_DELNEIGH,
        fields=_fields(index, ip),
        attributes=(("NDA_DST", str(ip)),),
        what=f"remove neighbour {ip} from link {index}",
        tolerate=_GONE,
    )


def list_of(index: int) -> Request:
    """Asks for the neighbours on one link."""
    attributes = (("NDA_IFINDEX", index),)
    return Request(type=RTM_GETNEIGH, flags=DUMP, attributes=attributes, what=f"list the neighbours on link {index}")


def parse_ours(messages: Iterable[Message]) -> list[Neighbour]:
    """Reads those with our mark from the answer of `list_of`."""
    return [
        Neighbour(
            ip=ipaddress.ip_address(message.get_attr("NDA_DST")),
            mac=bytes.fromhex(message.get_attr("NDA_LLADDR", "").replace(":", "")),
            permanent=bool(message["state"] & NUD_PERMANENT),
        )
        for message in messages
        if message.get_attr("NDA_PROTOCOL") == PROTOCOL
    ]


def _fields(index: int, ip: IpAddress) -> dict[str, int]:
    return {"family": socket.AF_INET if ip.version == 4 else socket.AF_INET6, "ifindex": index}
