"""Links: network interfaces as the kernel knows them.

Each function returns a Request; a Channel sends it to the namespace that the link is in.

Source: rtnetlink(7), linux/if_link.h, linux/veth.h, net/core/rtnetlink.c.
"""

import dataclasses
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from forwarder.netlink.message import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Message,
    Request,
    attribute,
    nested,
    parse_attributes,
    parse_text,
    text,
    u8,
    u32,
)

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18

IFF_UP: Final = 0x1
IFF_RUNNING: Final = 0x40
IFF_NOARP: Final = 0x80

NAME_BYTES: Final = 15
"""The longest name of a link."""
ALIAS_BYTES: Final = 255
"""The longest alias of a link."""

_IFLA_ADDRESS: Final = 1
_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_LINK: Final = 5
_IFLA_LINKINFO: Final = 18
_IFLA_IFALIAS: Final = 20
_IFLA_STATS64: Final = 23
_IFLA_AF_SPEC: Final = 26
_IFLA_GROUP: Final = 27
_IFLA_NET_NS_FD: Final = 28
_IFLA_EXT_MASK: Final = 29
_IFLA_LINK_NETNSID: Final = 37
_IFLA_TARGET_NETNSID: Final = 46
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_IN6_ADDR_GEN_MODE_NONE: Final = 1
_RTEXT_FILTER_SKIP_STATS: Final = 8
_AF_INET6: Final = 10

_FIXED: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change mask
_STATISTICS: Final = struct.Struct("=8Q")

_DOOMED_GROUP: Final = 0x76574952
"""The group that links are put into to be deleted together."""

_GONE: Final = frozenset({errno.ENODEV})
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What has passed a link, as the kernel counts it: towards us is received."""

    received_frames: int
    received_bytes: int
    sent_frames: int
    sent_bytes: int
    receive_drops: int
    send_drops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link, as it was when the kernel was asked."""

    index: int
    name: str
    alias: str = ""
    kind: str = ""
    """As `ip link add type` has it: "veth", "dummy"; empty for hardware and the loopback."""
    mac: bytes = b""
    mtu_bytes: int = 0
    flags: int = 0
    """IFF_ flags."""
    peer_index: int = 0
    """Index of a veth's other end in its own namespace, 0 when that is unknown."""
    peer_nsid: int | None = None
    """Number that the link's namespace has for the other end's; None when both are in one."""
    statistics: Statistics | None = None

    @property
    def up(self) -> bool:
        """Whether it was switched on."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True, kw_only=True)
class VethEnd:
    """What one end of a new veth pair shall be."""

    name: str
    mac: bytes
    mtu_bytes: int


def name_fault(name: str) -> str:
    """Says why `name` cannot be a link's name; empty when it can.

    Stricter than the kernel: no percent sign, which would be filled in as a template, and no
    unprintable characters. "all" and "default" would hide in /proc/sys/net/ipv*/conf.
    """
    if not name:
        return "it is empty"
    if len(name.encode()) > NAME_BYTES:
        return f"it is longer than {NAME_BYTES} bytes"
    if name in (".", "..", "all", "default"):
        return "the name is reserved"
    if any(letter in "/:%" or letter.isspace() or not letter.isprintable() for letter in name):
        return "it has a character that is not allowed in the name of a link"
    return ""


def create_veth(ours: VethEnd, theirs: VethEnd, their_netns_fd: int) -> Request:
    """Asks for a veth pair, both ends down, the other end made straight in its namespace.

    Fails with EEXIST when either name is taken.
    """
    peer = _FIXED.pack(0, 0, 0, 0, 0) + _end(theirs) + u32(_IFLA_NET_NS_FD, their_netns_fd)
    body = (
        _FIXED.pack(0, 0, 0, 0, 0)
        + _end(ours)
        + nested(
            _IFLA_LINKINFO,
            text(_IFLA_INFO_KIND, "veth"),
            nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, peer)),
        )
    )
    what = f"create veth pair {ours.name} and {theirs.name}"
    return Request(type=RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body, what=what)


def _end(end: VethEnd) -> bytes:
    return text(_IFLA_IFNAME, end.name) + attribute(_IFLA_ADDRESS, end.mac) + u32(_IFLA_MTU, end.mtu_bytes)


def set_alias(link: int | str, alias: str) -> Request:
    """Gives a link, by index or name, its alias."""
    return _change(link, attribute(_IFLA_IFALIAS, alias.encode()), what=f"set the alias of link {link} to {alias!r}")


def set_mtu(link: int | str, mtu_bytes: int) -> Request:
    """Sets the largest packet, without the Ethernet header."""
    return _change(link, u32(_IFLA_MTU, mtu_bytes), what=f"set the MTU of link {link} to {mtu_bytes}")


def set_mac(link: int | str, mac: bytes) -> Request:
    """Sets the hardware address."""
    return _change(link, attribute(_IFLA_ADDRESS, mac), what=f"set the address of link {link} to {mac.hex(':')}")


def rename(index: int, name: str) -> Request:
    """Gives the link another name; EEXIST when it is taken."""
    return _change(index, text(_IFLA_IFNAME, name), what=f"rename link {index} to {name}")


def set_flags(link: int | str, *, on: int = 0, off: int = 0) -> Request:
    """Switches IFF_ flags, such as IFF_UP."""
    return _change(link, b"", flags=on, mask=on | off, what=f"switch flags of link {link} on {on:#x} and off {off:#x}")


def no_ipv6_address(link: int | str) -> Request:
    """Keeps the kernel from giving the link an IPv6 link-local address when it comes up.

    Fine, too, in a kernel that has no IPv6.
    """
    mode = nested(_AF_INET6, u8(_IFLA_INET6_ADDR_GEN_MODE, _IN6_ADDR_GEN_MODE_NONE))
    request = _change(link, nested(_IFLA_AF_SPEC, mode), what=f"switch IPv6 address generation of link {link} off")
    return dataclasses.replace(request, tolerate=_NO_IPV6)


def _change(link: int | str, attributes: bytes, *, what: str, flags: int = 0, mask: int = 0) -> Request:
    if isinstance(link, int):
        return Request(type=RTM_NEWLINK, flags=0, body=_FIXED.pack(0, 0, link, flags, mask) + attributes, what=what)
    body = _FIXED.pack(0, 0, 0, flags, mask) + text(_IFLA_IFNAME, link) + attributes
    return Request(type=RTM_NEWLINK, flags=0, body=body, what=what)


def delete(link: int | str) -> Request:
    """Removes a link, and with a veth its other end; one that is gone already is fine."""
    if isinstance(link, int):
        body = _FIXED.pack(0, 0, link, 0, 0)
    else:
        body = _FIXED.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, link)
    return Request(type=RTM_DELLINK, flags=0, body=body, what=f"delete link {link}", tolerate=_GONE)


def delete_together(indices: Iterable[int]) -> list[Request]:
    """Removes links in one go; those that are gone already are fine.

    The kernel waits some 15 ms for packets in flight, whether one link is deleted or fifty are.
    By index and not by name: a name that is gone would turn the first half of this, which puts
    links into a group, into a change of all links that are in the group already.
    """
    return [
        *(
            dataclasses.replace(
                _change(index, u32(_IFLA_GROUP, _DOOMED_GROUP), what=f"delete link {index}"), tolerate=_GONE
            )
            for index in indices
        ),
        Request(
            type=RTM_DELLINK,
            flags=0,
            body=_FIXED.pack(0, 0, 0, 0, 0) + u32(_IFLA_GROUP, _DOOMED_GROUP),
            what="delete links",
            tolerate=_GONE,
        ),
    ]


def get(link: int | str, *, may_be_absent: bool = False, nsid: int | None = None) -> Request:
    """Asks for one link, in the namespace that has the number `nsid` here if that is given."""
    tolerate = _GONE if may_be_absent else frozenset[int]()
    if isinstance(link, int):
        body = _FIXED.pack(0, 0, link, 0, 0)
    else:
        body = _FIXED.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, link)
    if nsid is not None:
        body += u32(_IFLA_TARGET_NETNSID, nsid)
    return Request(type=RTM_GETLINK, flags=0, body=body, what=f"look at link {link}", tolerate=tolerate)


def list_all(*, statistics: bool = False) -> Request:
    """Asks for every link of the namespace; without counters it is half the work."""
    body = _FIXED.pack(0, 0, 0, 0, 0)
    if not statistics:
        body += u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(type=RTM_GETLINK, flags=NLM_F_DUMP, body=body, what="list the links")


def parse(message: Message) -> Link:
    """Decodes RTM_NEWLINK or RTM_DELLINK, from an answer or a notification."""
    _, _, index, flags, _ = _FIXED.unpack_from(message.body)
    found = parse_attributes(message.body, _FIXED.size)
    info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=parse_text(found.get(_IFLA_IFNAME, b"")),
        alias=parse_text(found.get(_IFLA_IFALIAS, b"")),
        kind=parse_text(info.get(_IFLA_INFO_KIND, b"")),
        mac=found.get(_IFLA_ADDRESS, b""),
        mtu_bytes=_number(found.get(_IFLA_MTU)),
        flags=flags,
        peer_index=_number(found.get(_IFLA_LINK)),
        peer_nsid=_number(found[_IFLA_LINK_NETNSID]) if _IFLA_LINK_NETNSID in found else None,
        statistics=_statistics(found.get(_IFLA_STATS64)),
    )


def parse_all(messages: Iterable[Message]) -> list[Link]:
    """Decodes the answer of `get` or `list_all`."""
    return [parse(message) for message in messages if message.type == RTM_NEWLINK]


def random_mac() -> bytes:
    """Makes up a unicast hardware address from the range that is free for everybody."""
    made = bytearray(os.urandom(6))
    made[0] = made[0] & 0xFC | 0x02
    return bytes(made)


def _number(payload: bytes | None) -> int:
    return int(struct.unpack("=I", payload)[0]) if payload is not None and len(payload) == 4 else 0


def _statistics(payload: bytes | None) -> Statistics | None:
    if payload is None or len(payload) < _STATISTICS.size:
        return None
    rx_frames, tx_frames, rx_bytes, tx_bytes, _, _, rx_drops, tx_drops = _STATISTICS.unpack_from(payload)
    return Statistics(
        received_frames=rx_frames,
        received_bytes=rx_bytes,
        sent_frames=tx_frames,
        sent_bytes=tx_bytes,
        receive_drops=rx_drops,
        send_drops=tx_drops,
    )
