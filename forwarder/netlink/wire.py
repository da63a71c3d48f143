"""Reads of a netlink message no more than is asked for.

pyroute2 decodes a whole message, and a link has sixty attributes: 0.1 ms, as much as the kernel takes
for the question. What is looked at with every vWire and heard from every namespace is read here.

Source: netlink(7), linux/netlink.h, linux/rtnetlink.h, linux/if_link.h (`struct rtnl_link_stats64`).
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

HEADER_BYTES: Final = 16
_HEADER: Final = struct.Struct("=IHHI4x")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
"""Above are NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_LINK: Final = struct.Struct("=BxHiII")
"""`struct ifinfomsg`: family, type, index, flags, change."""


class Piece(NamedTuple):
    """Where one message is in what a receive returned, and what its header says."""

    kind: int
    flags: int
    sequence: int
    offset: int
    length: int

    def body(self, data: bytes) -> memoryview:
        """Returns what stands behind the header."""
        return memoryview(data)[self.offset + HEADER_BYTES : self.offset + self.length]


def pieces(data: bytes) -> Iterator[Piece]:
    """Finds the messages that one receive returned; one that is cut short ends it."""
    at = 0
    while at + HEADER_BYTES <= len(data):
        length, kind, flags, sequence = _HEADER.unpack_from(data, at)
        if not HEADER_BYTES <= length <= len(data) - at:
            return
        yield Piece(kind, flags, sequence, at, length)
        at += (length + 3) & ~3


def link_index(body: memoryview) -> int:
    """Returns the index of the link that RTM_NEWLINK or RTM_DELLINK is about."""
    return int(_LINK.unpack_from(body)[2])


def link_attribute(body: memoryview, number: int) -> memoryview | None:
    """Returns an IFLA_ attribute of RTM_NEWLINK or RTM_DELLINK; None when it has none of this number."""
    at = _LINK.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= len(body) - at:
            return None
        if kind & _TYPE_MASK == number:
            return body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return None
