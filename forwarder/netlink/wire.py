"""Reads netlink messages as far as they are looked at.

pyroute2 decodes a whole message, and a link has sixty attributes: 0.25 ms, five times what the kernel
takes for the question. Links are looked at with every vWire, and so are the numbers of namespaces.

Source: netlink(7), linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/gen_stats.h.
"""

import ctypes
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pyroute2.netlink.rtnl import RTM_NEWLINK, RTM_NEWNSID, RTM_NEWQDISC

HEADER_BYTES: Final = 16
_HEADER: Final = struct.Struct("=IHHI4x")
_TYPE_OFFSET: Final = 4
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
"""Above are NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
_LINK: Final = struct.Struct("=4xiI4x")
"""`struct ifinfomsg`: index and flags, between family and type, and what of the flags changed."""


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
    return int(_LINK.unpack_from(body)[0])


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yields number and value of each attribute; one that is cut short ends it."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def hear_only(sock: socket.socket, kinds: Sequence[int]) -> None:
    """Has the kernel leave everything out that is multicast to a netlink socket but messages of these types.

    The kernel runs a classic BPF program over each message; it loads what is in the machine's byte order as
    if it were in the network's. Raises OSError.
    """
    accept_or_go_on = [
        _FILTER_STEP.pack(_BPF_JUMP_IF_EQUAL, len(kinds) - i, 0, socket.htons(kind)) for i, kind in enumerate(kinds)
    ]
    drop, accept = (_FILTER_STEP.pack(_BPF_RETURN, 0, 0, length) for length in (0, 0xFFFFFFFF))
    program = [_FILTER_STEP.pack(_BPF_LOAD_HALF, 0, 0, _TYPE_OFFSET), *accept_or_go_on, drop, accept]
    steps = ctypes.create_string_buffer(b"".join(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(steps)))


class ReadMessage:
    """A message of a kind in `READ` as far as anybody here looks at it, in a tenth of the time: a `request.Message`."""

    __slots__ = ("_attributes", "_fields", "_known")

    def __init__(self, kind: int, body: memoryview) -> None:
        """Reads what stands behind the header of a message whose kind is in `READ`."""
        layout, names, self._known = READ[kind]
        self._fields = dict(zip(names, layout.unpack_from(body), strict=True))
        self._attributes = dict(attributes(body[layout.size :]))

    def __getitem__(self, name: str) -> int:
        """Returns a field of the fixed part: of a link the index or the flags."""
        return int(self._fields[name])

    def get_attr(self, name: str, default: object = None) -> Any:
        """Returns an attribute as pyroute2 would; of IFLA_LINKINFO only its kind, of counts what is looked at."""
        number, read = self._known[name]
        found = self._attributes.get(number)
        return default if found is None else read(found)


class _LinkInfo:
    """IFLA_LINKINFO, of which only the kind is looked at."""

    __slots__ = ("_kind",)

    def __init__(self, nest: memoryview) -> None:
        self._kind = next((_text(value) for number, value in attributes(nest) if number == _IFLA_INFO_KIND), "")

    def get_attr(self, name: str) -> str:
        assert name == "IFLA_INFO_KIND", name
        return self._kind


def _text(value: memoryview) -> str:
    """Makes bytes that are not UTF-8 visible escapes."""
    return bytes(value).split(b"\0", 1)[0].decode(errors="backslashreplace")


def _mac(value: memoryview) -> str:
    return value.hex(":")


def _unsigned(value: memoryview) -> int:
    return int.from_bytes(value, sys.byteorder)


def _signed(value: memoryview) -> int:
    return int.from_bytes(value, sys.byteorder, signed=True)


def _counters(value: memoryview) -> dict[str, int]:
    return dict(zip(_COUNTERS, struct.unpack_from(f"={len(_COUNTERS)}Q", value), strict=True))


def _drops(nest: memoryview) -> int:
    """Reads `struct gnet_stats_queue`, as far as it is asked about."""
    return next((int(_QUEUE.unpack_from(value)[0]) for number, value in attributes(nest) if number == _QUEUE_STATS), 0)


# asm-generic/socket.h, linux/filter.h, linux/bpf_common.h
_SO_ATTACH_FILTER: Final = 26
_FILTER_STEP: Final = struct.Struct("=HBBI")
"""`struct sock_filter`: operation, steps to leave out if true and if not, operand."""
_BPF_LOAD_HALF: Final = 0x28
_BPF_JUMP_IF_EQUAL: Final = 0x15
_BPF_RETURN: Final = 0x06

# linux/gen_stats.h
_QUEUE_STATS: Final = 3
_QUEUE: Final = struct.Struct("=8xI")
"""Drops, behind length and backlog."""

_IFLA_INFO_KIND: Final = 1
_COUNTERS: Final = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
)
_Attributes = Mapping[str, tuple[int, Callable[[memoryview], Any]]]

_LINK_ATTRIBUTES: Final[_Attributes] = {
    "IFLA_ADDRESS": (1, _mac),
    "IFLA_IFNAME": (3, _text),
    "IFLA_MTU": (4, _unsigned),
    "IFLA_LINK": (5, _unsigned),
    "IFLA_LINKINFO": (18, _LinkInfo),
    "IFLA_IFALIAS": (20, _text),
    "IFLA_STATS64": (23, _counters),
    "IFLA_GROUP": (27, _unsigned),
    "IFLA_LINK_NETNSID": (37, _signed),
}
_NSID: Final = struct.Struct("=4x")
"""`struct rtgenmsg` and padding."""
_TC: Final = struct.Struct("=4xi12x")
"""`struct tcmsg`: the index of the link, between family and handle, parent, information."""

READ: Final[Mapping[int, tuple[struct.Struct, tuple[str, ...], _Attributes]]] = {
    RTM_NEWLINK: (_LINK, ("index", "flags"), _LINK_ATTRIBUTES),
    RTM_NEWQDISC: (_TC, ("index",), {"TCA_STATS2": (7, _drops)}),
    RTM_NEWNSID: (_NSID, (), {"NETNSA_NSID": (1, _unsigned)}),
}
"""By kind of message: the fixed part, what of it is looked at, and the attributes that are."""
