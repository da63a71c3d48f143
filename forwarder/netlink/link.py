"""Links: network interfaces as the kernel knows them.

Each function returns a Request; a Channel sends it to the namespace that the link is in.

Source: rtnetlink(7), linux/if_link.h, linux/veth.h, net/core/rtnetlink.c.
"""

import dataclasses
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK

from forwarder.errors import NetlinkError
from forwarder.netlink.attributes import Attributes
from forwarder.netlink.request import DUMP, EXCLUSIVE, Message, Request

IFF_UP: Final = 0x1
IFF_NOARP: Final = 0x80

NAME_BYTES: Final = 15
"""The longest name of a link."""
ALIAS_BYTES: Final = 254
"""The longest alias of a link, sent with the zero byte that ends it."""

_IN6_ADDR_GEN_MODE_NONE: Final = 1
_RTEXT_FILTER_SKIP_STATS: Final = 8
_IFLA_GROUP: Final = 27
_IFLA_GROUP_BYTES: Final = 8

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
    group: int = 0
    """A number that its maker chooses; 0 when nobody did."""
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
    group: int = 0


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
    peer: Attributes = (*_end(theirs), ("IFLA_NET_NS_FD", their_netns_fd))
    kind: Attributes = (("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", (("VETH_INFO_PEER", peer),)))
    return Request(
        type=RTM_NEWLINK,
        flags=EXCLUSIVE,
        attributes=(*_end(ours), ("IFLA_LINKINFO", kind)),
        what=f"create veth pair {ours.name} and {theirs.name}",
    )


def _end(end: VethEnd) -> Attributes:
    attributes: Attributes = (
        ("IFLA_IFNAME", end.name),
        ("IFLA_ADDRESS", end.mac.hex(":")),
        ("IFLA_MTU", end.mtu_bytes),
    )
    return (*attributes, ("IFLA_GROUP", end.group)) if end.group else attributes


def index_of(name: str) -> int:
    """Returns the index of a link in the calling thread's namespace. Raises NetlinkError (ENODEV)."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise NetlinkError(f"cannot find link {name}", errno=errno.ENODEV) from error


def set_alias(link: int | str, alias: str, *, on: int = 0) -> Request:
    """Gives a link, by index or name, its alias, and switches IFF_ flags on."""
    what = f"set the alias of link {link} to {alias!r}"
    return _change(link, ("IFLA_IFALIAS", alias), flags=on, mask=on, what=what)


def set_group(index: int, group: int) -> Request:
    """Gives a link the number of another group. By index: with a name it would mean all links of the group."""
    return _change(index, ("IFLA_GROUP", group), what=f"put link {index} into group {group}")


def set_mtu(link: int | str, mtu_bytes: int) -> Request:
    """Sets the largest packet, without the Ethernet header."""
    return _change(link, ("IFLA_MTU", mtu_bytes), what=f"set the MTU of link {link} to {mtu_bytes}")


def set_mac(link: int | str, mac: bytes) -> Request:
    """Sets the hardware address."""
    return _change(link, ("IFLA_ADDRESS", mac.hex(":")), what=f"set the address of link {link} to {mac.hex(':')}")


def rename(index: int, name: str) -> Request:
    """Gives the link another name; EEXIST when it is taken. Up or down is the same since Linux 6.2."""
    return _change(index, ("IFLA_IFNAME", name), what=f"rename link {index} to {name}")


def set_flags(link: int | str, *, on: int = 0, off: int = 0) -> Request:
    """Switches IFF_ flags, such as IFF_UP."""
    return _change(link, flags=on, mask=on | off, what=f"switch flags of link {link} on {on:#x} and off {off:#x}")


def no_ipv6_address(link: int | str) -> Request:
    """Keeps the kernel from giving the link an IPv6 link-local address when it comes up.

    Fine, too, in a kernel that has no IPv6.
    """
    mode: Attributes = (("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE),)
    request = _change(
        link, ("IFLA_AF_SPEC", (("AF_INET6", mode),)), what=f"switch IPv6 address generation of link {link} off"
    )
    return dataclasses.replace(request, tolerate=_NO_IPV6)


def _change(link: int | str, *attributes: tuple[str, Any], what: str, flags: int = 0, mask: int = 0) -> Request:
    fields, named = _named(link)
    return Request(
        type=RTM_NEWLINK, fields=fields | {"flags": flags, "change": mask}, attributes=(*named, *attributes), what=what
    )


def _named(link: int | str) -> tuple[dict[str, int], Attributes]:
    """Returns what says in a message which link is meant."""
    return ({"index": link}, ()) if isinstance(link, int) else ({}, (("IFLA_IFNAME", link),))


def delete(link: int | str) -> Request:
    """Removes a link, and with a veth its other end; one that is gone already is fine."""
    fields, attributes = _named(link)
    return Request(type=RTM_DELLINK, fields=fields, attributes=attributes, what=f"delete link {link}", tolerate=_GONE)


def delete_together(indices: Iterable[int]) -> list[Request]:
    """Removes links in one go; those that are gone already are fine.

    The kernel waits some 15 ms for packets in flight, whether one link is deleted or fifty are.
    By index and not by name: a name that is gone would turn the first half of this, which puts
    links into a group, into a change of all links that are in the group already.
    """
    group = ("IFLA_GROUP", _DOOMED_GROUP)
    doomed = [_change(index, group, what=f"delete link {index}") for index in indices]
    return [
        *(dataclasses.replace(each, tolerate=_GONE) for each in doomed),
        Request(type=RTM_DELLINK, attributes=(group,), what="delete links", tolerate=_GONE),
    ]


def get(link: int | str, *, may_be_absent: bool = False, nsid: int | None = None, statistics: bool = False) -> Request:
    """Asks for one link, in the namespace that has the number `nsid` here if that is given."""
    fields, attributes = _named(link)
    attributes += _without_counters(statistics)
    if nsid is not None:
        attributes += (("IFLA_IF_NETNSID", nsid),)
    return Request(
        type=RTM_GETLINK,
        fields=fields,
        attributes=attributes,
        what=f"look at link {link}",
        tolerate=_GONE if may_be_absent else frozenset(),
    )


def _without_counters(statistics: bool) -> Attributes:
    return () if statistics else (("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS),)


def list_all(*, kind: str = "", statistics: bool = False) -> Request:
    """Asks for every link of the namespace, or those of a kind; without counters it is half the work."""
    attributes = _without_counters(statistics)
    if kind:
        attributes += (("IFLA_LINKINFO", (("IFLA_INFO_KIND", kind),)),)
    return Request(type=RTM_GETLINK, flags=DUMP, attributes=attributes, what="list the links")


def list_group(group: int) -> Request:
    """Asks for every veth link of a group. The kernel cannot choose, so those without the number are not decoded."""
    attribute = struct.pack("=HHI", _IFLA_GROUP_BYTES, _IFLA_GROUP, group)
    return dataclasses.replace(list_all(kind="veth"), only=(attribute,), what=f"list the veth links of group {group}")


def parse(message: Message) -> Link:
    """Reads RTM_NEWLINK or RTM_DELLINK, from an answer or a notification."""
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=_text(message.get_attr("IFLA_IFNAME")),
        alias=_text(message.get_attr("IFLA_IFALIAS")),
        kind=_text(info.get_attr("IFLA_INFO_KIND")) if info else "",
        mac=bytes.fromhex(message.get_attr("IFLA_ADDRESS", "").replace(":", "")),
        mtu_bytes=message.get_attr("IFLA_MTU", 0),
        flags=message["flags"],
        peer_index=message.get_attr("IFLA_LINK", 0),
        peer_nsid=message.get_attr("IFLA_LINK_NETNSID"),
        group=message.get_attr("IFLA_GROUP", 0),
        statistics=_statistics(message.get_attr("IFLA_STATS64")),
    )


def parse_all(messages: Iterable[Message]) -> list[Link]:
    """Reads the answer of `get` or `list_all`."""
    return [parse(message) for message in messages]


def random_mac() -> bytes:
    """Makes up a unicast hardware address from the range that is free for everybody."""
    made = bytearray(os.urandom(6))
    made[0] = made[0] & 0xFC | 0x02
    return bytes(made)


def _text(told: str | bytes | None) -> str:
    """Makes bytes that are not UTF-8 visible escapes."""
    return told.decode(errors="backslashreplace") if isinstance(told, bytes) else told or ""


def _statistics(told: Any) -> Statistics | None:
    if not told:
        return None
    return Statistics(
        received_frames=told["rx_packets"],
        received_bytes=told["rx_bytes"],
        sent_frames=told["tx_packets"],
        sent_bytes=told["tx_bytes"],
        receive_drops=told["rx_dropped"],
        send_drops=told["tx_dropped"],
    )
