"""What a connection's context implies: addresses, link routes, next hops, port ranges.

Source: Network Service Mesh API, `ipcontext_helpers.go` and the comments of PolicyRoute.
"""

import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_interface
from typing import Final

from forwarder.api.connectioncontext_pb2 import IPContext, Route
from forwarder.api.path import copy
from forwarder.errors import InvalidRequest

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

_CIDR: Final = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}", re.ASCII)
_PORT_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


class Side(Enum):
    """Which end of the vWire an interface belongs to."""

    CLIENT = "client"
    """Has the src addresses and routes. Towards a forwarder's caller, where it is the mechanism's server."""
    ENDPOINT = "endpoint"
    """Has the dst addresses and routes. Towards a forwarder's next hop, where it is the mechanism's client."""

    @property
    def other(self) -> "Side":
        """The opposite side."""
        return Side.ENDPOINT if self is Side.CLIENT else Side.CLIENT


@lru_cache(maxsize=1024)
def interface(cidr: str) -> Interface | None:
    """Parses an address with its prefix length, keeping the host bits; None if it is not one."""
    if not _CIDR.fullmatch(cidr):
        return None
    try:
        return ip_interface(cidr)
    except ValueError:
        return None


def interfaces(cidrs: Iterable[str]) -> list[Interface]:
    """Parses addresses with their prefix lengths; what does not parse is left out."""
    return [parsed for cidr in cidrs if (parsed := interface(cidr)) is not None]


def addresses(context: IPContext, side: Side) -> list[Interface]:
    """Returns the addresses of one side's interface."""
    return interfaces(context.src_ip_addrs if side is Side.CLIENT else context.dst_ip_addrs)


def link_routes(context: IPContext, side: Side) -> list[Network]:
    """Returns the prefixes that `side` reaches on the link without a next hop.

    They are the other side's addresses that are not inside the prefix of one of its own.
    """
    own = [each.network for each in addresses(context, side)]
    return [each.network for each in addresses(context, side.other) if not _inside(each, own)]


def routes(context: IPContext, side: Side) -> list[Route]:
    """Returns copies of one side's routes, with the next hop filled in where it is implied.

    An empty next hop becomes the other side's first address of the route's family, unless the
    route's prefix starts inside the prefix of one of the other side's addresses.
    """
    given = context.src_routes if side is Side.CLIENT else context.dst_routes
    return with_next_hop(given, addresses(context, side.other))


def with_next_hop(given: Iterable[Route], gateways: Iterable[Interface]) -> list[Route]:
    """Returns copies of `given`; an empty next hop becomes the first gateway of the same family."""
    gateways = list(gateways)
    result = []
    for each in given:
        route = copy(each)
        prefix = interface(route.prefix)
        if prefix is not None and not _is_address(route.nextHop):
            family = [gateway for gateway in gateways if gateway.version == prefix.version]
            if family and not _inside(prefix, [gateway.network for gateway in family]):
                route.nextHop = str(family[0].ip)
        result.append(route)
    return result


def _inside(address: Interface, networks: Iterable[Network]) -> bool:
    return any(address.ip in network for network in networks if network.version == address.version)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def port_range(text: str) -> tuple[int, int] | None:
    """Parses `""` to None, `"n"` to (n, n) and `"first-last"` to (first, last).

    Raises InvalidRequest for anything else, for a port above 65535 and for first > last.
    """
    if not text:
        return None
    match = _PORT_RANGE.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"port range {text!r}: neither a port nor first-last")
    first = int(match[1])
    last = int(match[2]) if match[2] is not None else first
    if last > 0xFFFF or first > last:
        raise InvalidRequest(f"port range {text!r}: not within 0..65535 in rising order")
    return first, last
