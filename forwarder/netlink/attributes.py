"""Attributes as they go to the kernel: what each is called, its number, and how its value is written.

pyroute2 takes 0.05 ms for one, and the making of a vWire has some twenty. Names are its own and the kernel
headers'; a test compares what comes out with what it writes.

Source: netlink(7), linux/netlink.h; linux/if_link.h, linux/veth.h, linux/if_addr.h, linux/rtnetlink.h,
linux/fib_rules.h, linux/neighbour.h, linux/net_namespace.h, linux/pkt_cls.h.
"""

import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

Attributes = tuple[tuple[str, Any], ...]
"""Name and value; a nest of attributes is a tuple of these."""

_HEADER: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=I")
_PORTS: Final = struct.Struct("=HH")
_LINK_BYTES: Final = 16
"""Of `struct ifinfomsg`, which stands before the attributes of a veth's other end."""


def encode(attributes: Attributes) -> bytes:
    """Returns the attributes one after the other. Raises KeyError for one that is not in the table: a bug."""
    encoded = []
    for name, value in attributes:
        number, written = KNOWN[name]
        body = written(value)
        encoded.append(_HEADER.pack(_HEADER.size + len(body), number) + body + bytes(-len(body) & 3))
    return b"".join(encoded)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _ip(value: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in value else socket.AF_INET, value)


def _byte(value: int) -> bytes:
    return bytes((value,))


def _ports(value: str) -> bytes:
    first, last = value.split(":")
    return _PORTS.pack(int(first), int(last))


def _link(value: Attributes) -> bytes:
    return bytes(_LINK_BYTES) + encode(value)


KNOWN: Final[Mapping[str, tuple[int, Callable[[Any], bytes]]]] = {
    "IFLA_ADDRESS": (1, _mac),
    "IFLA_IFNAME": (3, _text),
    "IFLA_MTU": (4, _NUMBER.pack),
    "IFLA_LINKINFO": (18, encode),
    "IFLA_INFO_KIND": (1, _text),
    "IFLA_INFO_DATA": (2, encode),
    "VETH_INFO_PEER": (1, _link),
    "IFLA_IFALIAS": (20, _text),
    "IFLA_AF_SPEC": (26, encode),
    "AF_INET6": (10, encode),
    "IFLA_INET6_ADDR_GEN_MODE": (8, _byte),
    "IFLA_GROUP": (27, _NUMBER.pack),
    "IFLA_NET_NS_FD": (28, _NUMBER.pack),
    "IFLA_EXT_MASK": (29, _NUMBER.pack),
    "IFLA_IF_NETNSID": (46, _NUMBER.pack),
    "IFA_ADDRESS": (1, _ip),
    "IFA_LOCAL": (2, _ip),
    "IFA_FLAGS": (8, _NUMBER.pack),
    "IFA_PROTO": (11, _byte),
    "RTA_DST": (1, _ip),
    "RTA_OIF": (4, _NUMBER.pack),
    "RTA_GATEWAY": (5, _ip),
    "RTA_PRIORITY": (6, _NUMBER.pack),
    "RTA_TABLE": (15, _NUMBER.pack),
    "FRA_SRC": (2, _ip),
    "FRA_TABLE": (15, _NUMBER.pack),
    "FRA_PROTOCOL": (21, _byte),
    "FRA_IP_PROTO": (22, _byte),
    "FRA_SPORT_RANGE": (23, _ports),
    "FRA_DPORT_RANGE": (24, _ports),
    "NDA_DST": (1, _ip),
    "NDA_LLADDR": (2, _mac),
    "NDA_IFINDEX": (8, _NUMBER.pack),
    "NDA_PROTOCOL": (12, _byte),
    "NETNSA_NSID": (1, _NUMBER.pack),
    "NETNSA_FD": (3, _NUMBER.pack),
    "TCA_KIND": (1, _text),
    "TCA_OPTIONS": (2, encode),
    "TCA_BPF_FD": (6, _NUMBER.pack),
    "TCA_BPF_NAME": (7, _text),
    "TCA_BPF_FLAGS": (8, _NUMBER.pack),
}
