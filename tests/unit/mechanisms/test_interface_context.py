"""What a connection's context asks of each side's interface."""

import ipaddress

import pytest

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.errors import InvalidRequest
from forwarder.mechanisms.interface_context import interface_context
from forwarder.netlink.neighbour import Neighbour
from forwarder.netlink.route import Route
from tests.support.connections import connection

CLIENT, ENDPOINT = Side.CLIENT, Side.ENDPOINT


def kernel(**parameters: str) -> Connection:
    made = connection("nsc:origin", "forwarder:own", index=1, network_service="svc", payload="ETHERNET")
    made.mechanism.cls, made.mechanism.type = "LOCAL", "KERNEL"
    made.mechanism.parameters.update({"name": "nsm-1", "inodeURL": "inode://4/5"} | parameters)
    ip = made.context.ip_context
    ip.src_ip_addrs.extend(["172.16.1.101/32", "2001:db8::2/128"])
    ip.dst_ip_addrs.extend(["172.16.1.100/32", "2001:db8::1/128"])
    return made


def hop(destination, gateway=None):
    return Route(
        destination=ipaddress.ip_network(destination), gateway=ipaddress.ip_address(gateway) if gateway else None
    )


def test_each_side_has_its_own_addresses_and_its_mark():
    client, endpoint = (interface_context(kernel(), side) for side in (CLIENT, ENDPOINT))
    assert [str(one) for one in client.addresses] == ["172.16.1.101/32", "2001:db8::2/128"]
    assert [str(one) for one in endpoint.addresses] == ["172.16.1.100/32", "2001:db8::1/128"]
    assert (client.alias, client.peer_alias) == ("server-origin", "veth-server-origin")
    assert (endpoint.alias, endpoint.peer_alias) == ("client-origin", "veth-client-origin")


def test_each_side_reaches_the_other_on_the_link():
    assert interface_context(kernel(), CLIENT).routes == (hop("172.16.1.100/32"), hop("2001:db8::1/128"))
    assert interface_context(kernel(), ENDPOINT).routes == (hop("172.16.1.101/32"), hop("2001:db8::2/128"))


def test_a_route_goes_over_the_other_side_unless_it_names_its_own_next_hop():
    given = kernel()
    given.context.ip_context.src_routes.add(prefix="10.0.0.0/8")
    given.context.ip_context.src_routes.add(prefix="11.0.0.0/8", nextHop="172.16.1.1")
    given.context.ip_context.src_routes.add(prefix="172.16.1.100/32")
    given.context.ip_context.src_routes.add(prefix="nonsense")
    assert interface_context(given, CLIENT).routes[2:] == (
        hop("10.0.0.0/8", "172.16.1.100"),
        hop("11.0.0.0/8", "172.16.1.1"),
    )
    assert len(interface_context(given, ENDPOINT).routes) == 2


def test_hardware_addresses_are_given_by_side():
    given = kernel()
    given.context.ethernet_context.src_mac = "02:00:00:00:00:01"
    given.context.ethernet_context.dst_mac = "02:00:00:00:00:02"
    assert interface_context(given, CLIENT).mac == bytes.fromhex("020000000001")
    assert interface_context(given, ENDPOINT).mac == bytes.fromhex("020000000002")
    assert interface_context(kernel(), CLIENT).mac == b""


def test_with_payload_ip_the_peers_are_told_and_with_ethernet_they_are_asked():
    given = kernel()
    assert interface_context(given, CLIENT).peers == ()
    given.payload = "IP"
    context = interface_context(given, CLIENT)
    assert context.ip_mode
    assert [str(ip) for ip in context.peers] == ["172.16.1.100", "2001:db8::1"]
    assert [str(ip) for ip in interface_context(given, ENDPOINT).peers] == ["172.16.1.101", "2001:db8::2"]


def test_neighbours_are_for_both_sides():
    given = kernel()
    given.context.ip_context.ip_neighbors.add(ip="10.0.0.1", hardware_address="02:00:00:00:00:09")
    wanted = (Neighbour(ip=ipaddress.ip_address("10.0.0.1"), mac=bytes.fromhex("020000000009")),)
    assert interface_context(given, CLIENT).neighbours == wanted
    assert interface_context(given, ENDPOINT).neighbours == wanted


def test_policies_are_for_the_client_only_and_without_routes_lead_anywhere():
    given = kernel()
    policy = given.context.ip_context.policies.add(proto="6", dst_port="80", src_port="10-20")
    setattr(policy, "from", "172.16.2.201/24")
    policy.routes.add(prefix="172.16.5.0/24", nextHop="172.16.1.1")
    setattr(given.context.ip_context.policies.add(), "from", "2001:db8::2/128")
    given.context.ip_context.policies.add(dst_port="53")
    first, second, third = interface_context(given, CLIENT).policies
    assert str(first.source) == "172.16.2.0/24"
    assert (first.protocol, first.destination_ports, first.source_ports) == (6, (80, 80), (10, 20))
    assert first.routes == (hop("172.16.5.0/24", "172.16.1.1"),)
    assert (second.version, second.routes) == (6, (hop("::/0"),))
    assert (third.version, third.routes) == (4, (hop("0.0.0.0/0"),))
    assert interface_context(given, ENDPOINT).policies == ()


def test_the_mtu_is_the_contexts_or_ethernets():
    given = kernel()
    assert interface_context(given, CLIENT).mtu_bytes == 1500
    given.context.MTU = 9000
    assert interface_context(given, CLIENT).mtu_bytes == 9000


def test_a_shared_vlan_interface_keeps_its_own_context():
    given = kernel(vlan="7")
    given.payload = "IP"
    given.context.ip_context.policies.add()
    context = interface_context(given, CLIENT)
    assert not context.managed
    assert not (context.addresses)
    assert not (context.routes)
    assert not (context.neighbours)
    assert not (context.peers)
    assert not (context.policies)


def test_local_networks_are_routed_at_the_endpoint_only():
    given = kernel(routeLocalNet="true")
    assert interface_context(given, ENDPOINT).route_local_net
    assert not interface_context(given, CLIENT).route_local_net


def neighbour_without_address(given):
    given.context.ip_context.ip_neighbors.add(ip="10.0.0.1")


def policy(**fields):
    def change(given):
        made = given.context.ip_context.policies.add(**{k: v for k, v in fields.items() if k != "source"})
        setattr(made, "from", fields.get("source", ""))

    return change


def other_version(given):
    made = given.context.ip_context.policies.add()
    setattr(made, "from", "10.0.0.0/8")
    made.routes.add(prefix="2001:db8::/32")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.mechanism.parameters.update(name=""), "empty"),
        (lambda c: c.mechanism.parameters.update(name="x" * 16), "longer"),
        (lambda c: c.mechanism.parameters.update(name="a/b"), "not allowed"),
        (lambda c: c.path.path_segments[0].ClearField("id"), "connection id"),
        (lambda c: setattr(c.path.path_segments[0], "id", "x" * 250), "connection id"),
        (lambda c: setattr(c.path.path_segments[0], "id", "a\nb"), "connection id"),
        (lambda c: setattr(c.context.ethernet_context, "src_mac", "02:00"), "src_mac"),
        (lambda c: setattr(c.context.ethernet_context, "src_mac", "01:00:5e:00:00:01"), "group"),
        (lambda c: setattr(c.context, "MTU", 67), "MTU"),
        (lambda c: setattr(c.context, "MTU", 65536), "MTU"),
        (lambda c: c.context.ip_context.ip_neighbors.add(ip="x", hardware_address="02:00:00:00:00:01"), "ip_neighbors"),
        (neighbour_without_address, "ip_neighbors"),
        (lambda c: c.context.ip_context.src_routes.add(prefix="10.0.0.0/8", nextHop="::1"), "other IP version"),
        (policy(source="nonsense"), "from"),
        (policy(proto="tcp"), "proto"),
        (policy(proto="256"), "proto"),
        (policy(proto="1" * 5000), "proto"),
        (lambda c: c.context.ip_context.src_routes.add(prefix="2001:db8::/32", nextHop="fe80::1%lo"), "names a link"),
        (policy(dst_port="80-70"), "port range"),
        (other_version, "IPv4"),
        (lambda c: setattr(c.mechanism, "type", "MEMIF"), "not KERNEL"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_field(change, says):
    given = kernel()
    change(given)
    with pytest.raises(InvalidRequest, match=says):
        interface_context(given, CLIENT)
