"""Neighbours: which hardware address stands behind an IP address on a link.

Source: rtnetlink(7), linux/neighbour.h, net/core/neighbour.c.
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
    NLM_F_REPLACE,
    Message,
    Request,
    attribute,
    parse_attributes,
    u8,
    u32,
)

RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_GETNEIGH: Final = 30

_NDA_DST: Final = 1
_NDA_LLADDR: Final = 2
_NDA_IFINDEX: Final = 8
_NDA_PROTOCOL: Final = 12
_NUD_REACHABLE: Final = 0x02
_NUD_PERMANENT: Final = 0x80

_AF_INET: Final = 2
_AF_INET6: Final = 10
_FIXED: Final = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type

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
    body = (
        _fixed(neighbour.ip, index, _NUD_PERMANENT if neighbour.permanent else _NUD_REACHABLE)
        + attribute(_NDA_DST, neighbour.ip.packed)
        + attribute(_NDA_LLADDR, neighbour.mac)
        + u8(_NDA_PROTOCOL, PROTOCOL)
    )
    what = f"add neighbour {neighbour.ip} at {neighbour.mac.hex(':')} to link {index}"
    return Request(type=RTM_NEWNEIGH, flags=NLM_F_CREATE | NLM_F_REPLACE, body=body, what=what)


def remove(index: int, ip: IpAddress) -> Request:
    """Makes the kernel forget a neighbour; one that it does not know is fine."""
    body = _fixed(ip, index, 0) + attribute(_NDA_DST, ip.packed)
    what = f"remove neighbour {ip} from link {index}"
    return Request(type=RTM_DELNEIGH, flags=0, body=body, what=what, tolerate=_GONE)


def list_of(index: int) -> Request:
    """Asks for the neighbours on one link."""
    body = _FIXED.pack(0, 0, 0, 0, 0) + u32(_NDA_IFINDEX, index)
    return Request(type=RTM_GETNEIGH, flags=NLM_F_DUMP, body=body, what=f"list the neighbours on link {index}")


def parse_ours(messages: Iterable[Message], index: int) -> list[Neighbour]:
    """Decodes those with our mark from the answer of `list_of`."""
    found = []
    for message in messages:
        if message.type != RTM_NEWNEIGH:
            continue
        _, on, state, _, _ = _FIXED.unpack_from(message.body)
        have = parse_attributes(message.body, _FIXED.size)
        if on != index or have.get(_NDA_PROTOCOL) != bytes([PROTOCOL]) or _NDA_DST not in have:
            continue
        found.append(
            Neighbour(
                ip=ipaddress.ip_address(have[_NDA_DST]),
                mac=have.get(_NDA_LLADDR, b""),
                permanent=bool(state & _NUD_PERMANENT),
            )
        )
    return found


def _fixed(ip: IpAddress, index: int, state: int) -> bytes:
    return _FIXED.pack(_AF_INET if ip.version == 4 else _AF_INET6, index, state, 0, 0)
