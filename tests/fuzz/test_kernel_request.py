"""Whatever a caller writes into a request for a kernel interface is understood or refused."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.errors import InvalidRequest
from forwarder.mechanisms import inode_url
from forwarder.mechanisms.interface_context import InterfaceContext, interface_context
from forwarder.netlink import address, link, neighbour, route, rule
from forwarder.netlink.rule import Rule

TEXT = st.text(max_size=40)
NUMBER = st.integers(0, 300).map(str) | st.integers().map(str)
IP = st.ip_addresses().map(str) | st.sampled_from(["fe80::1%lo", "::ffff:1.2.3.4", "127.0.0.1", "0.0.0.0"]) | TEXT
CIDR = st.builds(lambda ip, length: f"{ip}/{length}", IP, NUMBER) | TEXT
MAC = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":")) | TEXT
PORTS = st.builds(lambda a, b: f"{a}-{b}", NUMBER, NUMBER) | NUMBER | TEXT
NAME = TEXT | st.sampled_from(["nsm-1", "eth%d", "../x", "all", "a" * 16])
ROUTES = st.lists(st.fixed_dictionaries({"prefix": CIDR, "nextHop": IP | st.just("")}), max_size=3)
POLICIES = st.lists(
    st.fixed_dictionaries(
        {"from": CIDR, "proto": NUMBER | TEXT, "dst_port": PORTS, "src_port": PORTS, "routes": ROUTES}
    ),
    max_size=3,
)


@st.composite
def connections(draw: st.DrawFn) -> Connection:
    made = Connection(payload=draw(st.sampled_from(["IP", "ETHERNET", ""]) | TEXT))
    made.path.path_segments.add(id=draw(st.just("origin") | st.text(max_size=300)))
    made.mechanism.type = "KERNEL"
    parameters = st.sampled_from(["name", "vlan", "routeLocalNet", "inodeURL"])
    made.mechanism.parameters.update(draw(st.dictionaries(parameters, NAME)))
    made.mechanism.parameters.setdefault("name", "nsm-1")
    made.context.MTU = draw(st.integers(0, 2**32 - 1) | st.just(1500))
    made.context.ethernet_context.src_mac = draw(MAC | st.just(""))
    made.context.ethernet_context.dst_mac = draw(MAC | st.just(""))
    ip = made.context.ip_context
    ip.src_ip_addrs.extend(draw(st.lists(CIDR, max_size=3)))
    ip.dst_ip_addrs.extend(draw(st.lists(CIDR, max_size=3)))
    for fields in draw(ROUTES):
        ip.src_routes.add(**fields)
    for fields in draw(ROUTES):
        ip.dst_routes.add(**fields)
    for fields in draw(POLICIES):
        ip.policies.add(**fields)
    for one in draw(st.lists(st.tuples(IP, MAC), max_size=2)):
        ip.ip_neighbors.add(ip=one[0], hardware_address=one[1])
    return made


def say_it_to_the_kernel(context: InterfaceContext) -> None:
    """Encodes every message that the context leads to."""
    assert len(context.name.encode()) <= link.NAME_BYTES
    assert len(context.peer_alias.encode()) <= link.ALIAS_BYTES
    requests = [link.set_alias(1, context.alias), link.set_mtu(1, context.mtu_bytes)]
    if context.mac:
        requests.append(link.set_mac(1, context.mac))
    requests += [address.add(1, one) for one in context.addresses]
    requests += [route.add(1, one) for one in context.routes]
    requests += [neighbour.put(1, one) for one in context.neighbours]
    for policy in context.policies:
        requests += [route.add(1, one) for one in policy.routes]
        requests.append(
            rule.add(
                Rule(
                    version=policy.version,
                    table=1,
                    source=policy.source,
                    protocol=policy.protocol,
                    source_ports=policy.source_ports,
                    destination_ports=policy.destination_ports,
                )
            )
        )
    for request in requests:
        request.encode(1)


@given(connections(), st.sampled_from(Side))
def test_any_context_is_understood_or_refused(given_connection: Connection, side: Side) -> None:
    with contextlib.suppress(InvalidRequest):
        say_it_to_the_kernel(interface_context(given_connection, side))


@given(
    st.builds(lambda scheme, rest: scheme + rest, st.sampled_from(["file://", "inode://", "file:///proc/", ""]), TEXT)
)
def test_any_inode_url_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        target = inode_url.parse(text)
        if isinstance(target, str):
            assert target.startswith("/")
            assert "/self/" not in target or not target.startswith("/proc")
    assert inode_url.means(text, (0, 0)) in (False, True)
