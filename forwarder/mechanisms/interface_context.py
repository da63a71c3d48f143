"""What a connection's context asks of the kernel interface in a pod.

A pure function from an NSM Connection and a side to plain values, which `kernel_interface` makes
so. Entries that do not parse are left out where NSM leaves them out, refused where it does not say.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from forwarder.api import constants
from forwarder.api import context as api
from forwarder.api.connection_pb2 import Connection
from forwarder.api.connectioncontext_pb2 import IPContext, PolicyRoute
from forwarder.api.connectioncontext_pb2 import Route as ApiRoute
from forwarder.api.context import Side
from forwarder.api.mechanisms import Kernel
from forwarder.errors import InvalidRequest
from forwarder.netlink.address import IpAddress, IpInterface
from forwarder.netlink.link import ALIAS_BYTES, name_fault
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.route import IpNetwork, Route

_PEER_ALIAS: Final = "veth-"
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}", re.ASCII)
_PROTOCOL: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_DEFAULT_MTU_BYTES: Final = 1500
_SMALLEST_MTU_BYTES: Final = 68
_LARGEST_MTU_BYTES: Final = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Packets that fit the selectors take these routes. The table is chosen later."""

    version: int
    source: IpNetwork | None = None
    protocol: int = 0
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    routes: tuple[Route, ...]
    """In the main table here: only destination and gateway count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceContext:
    """Everything that the interface in the pod shall be and have."""

    inode_url: str
    name: str
    alias: str
    mac: bytes
    """Empty when any will do."""
    mtu_bytes: int
    ip_mode: bool
    """Payload IP: the other end is ours alone, so its hardware address is told for every peer address."""
    managed: bool
    """False with a shared VLAN interface, whose addresses, routes, neighbours and MTU are not ours."""
    addresses: tuple[IpInterface, ...]
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]
    peers: tuple[IpAddress, ...]
    """Addresses behind the other end, in IP mode."""
    policies: tuple[Policy, ...]
    route_local_net: bool

    @property
    def peer_alias(self) -> str:
        """The alias of our end of the pair."""
        return _PEER_ALIAS + self.alias


def interface_context(connection: Connection, side: Side) -> InterfaceContext:
    """Reads what `side` of the connection asks for. Raises InvalidRequest naming the field."""
    parameters = Kernel.of(connection.mechanism)
    if parameters is None:
        raise InvalidRequest(f"mechanism {connection.mechanism.type!r} is not {constants.KERNEL}")
    context = connection.context
    managed = parameters.vlan == 0
    ip_mode = connection.payload == constants.IP
    return InterfaceContext(
        inode_url=parameters.inode_url,
        name=interface_name(parameters),
        alias=_alias(connection, side),
        mac=_mac(
            context.ethernet_context.src_mac if side is Side.CLIENT else context.ethernet_context.dst_mac,
            "ethernet_context.src_mac" if side is Side.CLIENT else "ethernet_context.dst_mac",
        ),
        mtu_bytes=_mtu(context.MTU),
        ip_mode=ip_mode,
        managed=managed,
        addresses=tuple(api.addresses(context.ip_context, side)) if managed else (),
        routes=_routes(context.ip_context, side) if managed else (),
        neighbours=_neighbours(context.ip_context) if managed else (),
        peers=tuple(dict.fromkeys(one.ip for one in api.addresses(context.ip_context, side.other)))
        if managed and ip_mode
        else (),
        policies=_policies(context.ip_context) if managed and side is Side.CLIENT else (),
        route_local_net=parameters.route_local_net and side is Side.ENDPOINT,
    )


def interface_name(parameters: Kernel) -> str:
    """Returns the interface's name. Raises InvalidRequest when it cannot be one."""
    if fault := name_fault(parameters.name):
        raise InvalidRequest(f"cannot use {parameters.name!r} as the name of a kernel interface", detail=fault)
    return parameters.name


def _alias(connection: Connection, side: Side) -> str:
    segments = connection.path.path_segments
    origin = segments[0].id if segments else connection.id
    alias = f"{'server' if side is Side.CLIENT else 'client'}-{origin}"
    if not origin or len((_PEER_ALIAS + alias).encode()) > ALIAS_BYTES or not origin.isprintable():
        raise InvalidRequest(
            f"cannot mark an interface with connection id {origin!r}",
            detail=f"it is empty, unprintable or longer than {ALIAS_BYTES - len('veth-server-')} bytes",
        )
    return alias


def _mac(text: str, field: str) -> bytes:
    if not text:
        return b""
    if not _MAC.fullmatch(text):
        raise InvalidRequest(f"{field} {text!r} is not a hardware address", detail="six bytes in hexadecimal")
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if field.startswith("ethernet_context") and (mac[0] & 1 or not any(mac)):
        raise InvalidRequest(f"{field} {text!r} cannot be an interface's address", detail="it is a group's or zero")
    return mac


def _mtu(mtu: int) -> int:
    if not mtu:
        return _DEFAULT_MTU_BYTES
    if not _SMALLEST_MTU_BYTES <= mtu <= _LARGEST_MTU_BYTES:
        raise InvalidRequest(f"MTU {mtu} is not within {_SMALLEST_MTU_BYTES}..{_LARGEST_MTU_BYTES}")
    return int(mtu)


def _routes(context: IPContext, side: Side) -> tuple[Route, ...]:
    on_link = [Route(destination=network) for network in api.link_routes(context, side)]
    return tuple(dict.fromkeys([*on_link, *_parse_routes(api.routes(context, side))]))


def _parse_routes(given: Iterable[ApiRoute]) -> list[Route]:
    routes = []
    for each in given:
        prefix = api.interface(each.prefix)
        if prefix is None:
            continue
        gateway = _ip(each.nextHop, f"route {each.prefix}: next hop") if each.nextHop else None
        if gateway is not None and gateway.version != prefix.version:
            raise InvalidRequest(f"route {each.prefix}: next hop {each.nextHop} is of the other IP version")
        routes.append(Route(destination=prefix.network, gateway=gateway))
    return routes


def _ip(text: str, what: str) -> IpAddress:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidRequest(f"{what} {text!r} is not an address") from error
    if "%" in text:
        raise InvalidRequest(f"{what} {text!r} names a link", detail="the link is the connection's own")
    return ip


def _neighbours(context: IPContext) -> tuple[Neighbour, ...]:
    found = []
    for each in context.ip_neighbors:
        ip = _ip(each.ip, "ip_neighbors:")
        if not each.hardware_address:
            raise InvalidRequest(f"ip_neighbors: {each.ip} has no hardware address")
        found.append(Neighbour(ip=ip, mac=_mac(each.hardware_address, "ip_neighbors")))
    return tuple(found)


def _policies(context: IPContext) -> tuple[Policy, ...]:
    by_selectors = {}
    for each in context.policies:
        policy = _policy(each)
        by_selectors[selectors(policy)] = policy
    return tuple(by_selectors.values())


def selectors(policy: Policy) -> tuple[object, ...]:
    """Returns what tells one policy from another: everything but its routes."""
    return (policy.version, policy.source, policy.protocol, policy.source_ports, policy.destination_ports)


def _policy(given: PolicyRoute) -> Policy:
    source = None
    # "from" is a Python keyword, so the field is reached by name
    if text := getattr(given, "from"):
        parsed = api.interface(text) or api.interface(f"{text}/{128 if ':' in text else 32}")
        if parsed is None:
            raise InvalidRequest(f"policy: from {text!r} is not a prefix")
        source = parsed.network
    routes = _parse_routes(given.routes)
    version = source.version if source else routes[0].destination.version if routes else 4
    if any(route.destination.version != version for route in routes):
        raise InvalidRequest(f"policy from {source or 'all'}: its routes are not all of IPv{version}")
    protocol = 0
    if given.proto:
        if not _PROTOCOL.fullmatch(given.proto) or not 0 < int(given.proto) < 256:
            raise InvalidRequest(f"policy: proto {given.proto!r} is not an IP protocol number within 1..255")
        protocol = int(given.proto)
    everywhere = ipaddress.ip_network("0.0.0.0/0" if version == 4 else "::/0")
    return Policy(
        version=version,
        source=source,
        protocol=protocol,
        source_ports=api.port_range(given.src_port),
        destination_ports=api.port_range(given.dst_port),
        routes=tuple(dict.fromkeys(routes)) or (Route(destination=everywhere),),
    )
