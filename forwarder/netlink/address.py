"""IP addresses of links.

Source: rtnetlink(7), linux/if_addr.h, net/ipv4/devinet.c, net/ipv6/addrconf.c.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_DADFAILED, IFA_F_NODAD, IFA_F_TENTATIVE

from forwarder.netlink.attributes import Attributes
from forwarder.netlink.mark import PROTOCOL
from forwarder.netlink.request import DUMP, EXCLUSIVE, Message, Request

IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address with the length of its prefix; the host's bits are kept."""
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

SCOPE_GLOBAL: Final = 0

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
    attributes: Attributes = (*_attributes(interface), ("IFA_PROTO", PROTOCOL))
    if interface.version == 6:
        attributes += (("IFA_FLAGS", IFA_F_NODAD),)
    return Request(
        type=RTM_NEWADDR,
        flags=EXCLUSIVE,
        fields=_fields(index, interface),
        attributes=attributes,
        what=f"add address {interface} to link {index}",
        tolerate=_EXISTS,
    )


def remove(index: int, interface: IpInterface) -> Request:
    """Takes an address away; one that is gone already is fine."""
    return Request(
        type=RTM_DELADDR,
        fields=_fields(index, interface),
        attributes=_attributes(interface),
        what=f"remove address {interface} from link {index}",
        tolerate=_GONE,
    )


def list_of(index: int) -> Request:
    """Asks for the addresses of one link."""
    return Request(type=RTM_GETADDR, flags=DUMP, fields={"index": index}, what=f"list the addresses of link {index}")


def parse_all(messages: Iterable[Message]) -> list[Address]:
    """Reads the answer of `list_of`."""
    found = []
    for message in messages:
        ip = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        flags = message.get_attr("IFA_FLAGS", message["flags"])
        found.append(
            Address(
                index=message["index"],
                interface=ipaddress.ip_interface(f"{ip}/{message['prefixlen']}"),
                scope=message["scope"],
                tentative=bool(flags & IFA_F_TENTATIVE),
                duplicate=bool(flags & IFA_F_DADFAILED),
            )
        )
    return found


def _fields(index: int, interface: IpInterface) -> dict[str, int]:
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    return {"family": family, "prefixlen": interface.network.prefixlen, "index": index}


def _attributes(interface: IpInterface) -> Attributes:
    return (("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip)))
