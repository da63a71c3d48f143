"""IP addresses of links.

Source: rtnetlink(7), linux/if_addr.h, net/ipv4/devinet.c, net/ipv6/addrconf.c.
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

IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address with the length of its prefix; the host's bits are kept."""
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22

SCOPE_GLOBAL: Final = 0

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_FLAGS: Final = 8
_IFA_PROTO: Final = 11
_IFA_F_NODAD: Final = 0x02
_IFA_F_DADFAILED: Final = 0x08
_IFA_F_TENTATIVE: Final = 0x40

_AF_INET: Final = 2
_AF_INET6: Final = 10
_FIXED: Final = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index

_EXISTS: Final = frozenset({errno.EEXIST})
_GONE: Final = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address as the kernel has it."""

    index: int
    """The link's."""
    interface: IpInterface
    scope: int = SCOPE_GLOBAL
    tentative: bool = False
    """IPv6: not usable yet, the kernel still asks whether somebody else has it."""
    duplicate: bool = False
    """IPv6: somebody else has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressChanges:
    """What leads from the current addresses to the wanted ones, in this order."""

    remove_first: tuple[IpInterface, ...] = ()
    """IPv6 addresses whose prefix length changes: the kernel has each address only once."""
    add: tuple[IpInterface, ...] = ()
    remove: tuple[IpInterface, ...] = ()


def changes(wanted: Iterable[IpInterface], current: Iterable[IpInterface]) -> AddressChanges:
    """Computes wanted minus current and current minus wanted, each in the order given."""
    wanted, current = tuple(dict.fromkeys(wanted)), tuple(dict.fromkeys(current))
    add = tuple(one for one in wanted if one not in set(current))
    arriving = {one.ip for one in add if one.version == 6}
    leaving = tuple(one for one in current if one not in set(wanted))
    return AddressChanges(
        remove_first=tuple(one for one in leaving if one.ip in arriving),
        add=add,
        remove=tuple(one for one in leaving if one.ip not in arriving),
    )


def add(index: int, interface: IpInterface) -> Request:
    """Gives a link an address; one that it has already is fine.

    An IPv6 address is usable at once: nobody else is on the link, so nobody is asked.
    """
    flags = _IFA_F_NODAD if interface.version == 6 else 0
    body = _body(index, interface, flags) + u8(_IFA_PROTO, PROTOCOL) + (u32(_IFA_FLAGS, flags) if flags else b"")
    return Request(
        type=RTM_NEWADDR,
        flags=NLM_F_CREATE | NLM_F_EXCL,
        body=body,
        what=f"add address {interface} to link {index}",
        tolerate=_EXISTS,
    )


def remove(index: int, interface: IpInterface) -> Request:
    """Takes an address away; one that is gone already is fine."""
    what = f"remove address {interface} from link {index}"
    return Request(type=RTM_DELADDR, flags=0, body=_body(index, interface, 0), what=what, tolerate=_GONE)


def list_of(index: int) -> Request:
    """Asks for the addresses of one link."""
    body = _FIXED.pack(0, 0, 0, 0, index)
    return Request(type=RTM_GETADDR, flags=NLM_F_DUMP, body=body, what=f"list the addresses of link {index}")


def parse_all(messages: Iterable[Message], index: int) -> list[Address]:
    """Decodes the answer of `list_of`; kernels that do not filter are filtered here."""
    return [
        found
        for message in messages
        if message.type == RTM_NEWADDR and (found := _parse(message)) is not None and found.index == index
    ]


def _parse(message: Message) -> Address | None:
    family, prefix, flags, scope, index = _FIXED.unpack_from(message.body)
    found = parse_attributes(message.body, _FIXED.size)
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None or family not in (_AF_INET, _AF_INET6):
        return None
    if _IFA_FLAGS in found:
        (flags,) = struct.unpack("=I", found[_IFA_FLAGS])
    return Address(
        index=index,
        interface=ipaddress.ip_interface((ipaddress.ip_address(packed), prefix)),
        scope=scope,
        tentative=bool(flags & _IFA_F_TENTATIVE),
        duplicate=bool(flags & _IFA_F_DADFAILED),
    )


def _body(index: int, interface: IpInterface, flags: int) -> bytes:
    family = _AF_INET if interface.version == 4 else _AF_INET6
    packed = interface.ip.packed
    fixed = _FIXED.pack(family, interface.network.prefixlen, flags, SCOPE_GLOBAL, index)
    return fixed + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
