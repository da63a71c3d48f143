"""The API's field tables, and an encoder that knows nothing but them and the protobuf encoding.

Encoding: https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Mapping
from typing import Any

S, U32, I32, B, T = "string", "uint32", "int32", "bool", "google.protobuf.Timestamp"
MAP = "map<string,string>"

MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "google.protobuf.Timestamp": [("seconds", 1, "int64"), ("nanos", 2, I32)],
    "connection.Mechanism": [("cls", 1, S), ("type", 2, S), ("parameters", 3, MAP)],
    "connection.PathSegment": [("name", 1, S), ("id", 2, S), ("token", 3, S), ("expires", 4, T), ("metrics", 5, MAP)],
    "connection.Path": [("index", 1, U32), ("path_segments", 2, "repeated connection.PathSegment")],
    "connection.Connection": [
        ("id", 1, S),
        ("network_service", 2, S),
        ("mechanism", 3, "connection.Mechanism"),
        ("context", 4, "connectioncontext.ConnectionContext"),
        ("labels", 5, MAP),
        ("path", 6, "connection.Path"),
        ("network_service_endpoint_name", 7, S),
        ("payload", 8, S),
        ("state", 9, "enum connection.State"),
    ],
    "connection.ConnectionEvent": [
        ("type", 1, "enum connection.ConnectionEventType"),
        ("connections", 2, "map<string,connection.Connection>"),
    ],
    "connection.MonitorScopeSelector": [
        ("path_segments", 1, "repeated connection.PathSegment"),
        ("network_services", 2, "repeated string"),
    ],
    "connectioncontext.IpNeighbor": [("ip", 1, S), ("hardware_address", 2, S)],
    "connectioncontext.Route": [("prefix", 1, S), ("nextHop", 2, S)],
    "connectioncontext.IpFamily": [("family", 1, "enum connectioncontext.IpFamily.Family")],
    "connectioncontext.ExtraPrefixRequest": [
        ("addr_family", 1, "connectioncontext.IpFamily"),
        ("prefix_len", 2, U32),
        ("required_number", 3, U32),
        ("requested_number", 4, U32),
    ],
    "connectioncontext.PolicyRoute": [
        ("from", 1, S),
        ("proto", 2, S),
        ("dst_port", 3, S),
        ("src_port", 4, S),
        ("routes", 5, "repeated connectioncontext.Route"),
    ],
    "connectioncontext.IPContext": [
        ("src_ip_addrs", 1, "repeated string"),
        ("dst_ip_addrs", 2, "repeated string"),
        ("src_ip_required", 3, B),
        ("dst_ip_required", 4, B),
        ("src_routes", 5, "repeated connectioncontext.Route"),
        ("dst_routes", 6, "repeated connectioncontext.Route"),
        ("excluded_prefixes", 7, "repeated string"),
        ("ip_neighbors", 8, "repeated connectioncontext.IpNeighbor"),
        ("extra_prefix_request", 9, "repeated connectioncontext.ExtraPrefixRequest"),
        ("extra_prefixes", 10, "repeated string"),
        ("policies", 11, "repeated connectioncontext.PolicyRoute"),
    ],
    "connectioncontext.DNSConfig": [("dns_server_ips", 1, "repeated string"), ("search_domains", 2, "repeated string")],
    "connectioncontext.DNSContext": [("configs", 1, "repeated connectioncontext.DNSConfig")],
    "connectioncontext.EthernetContext": [("src_mac", 1, S), ("dst_mac", 2, S), ("vlan_tag", 3, I32)],
    "connectioncontext.ConnectionContext": [
        ("ip_context", 1, "connectioncontext.IPContext"),
        ("dns_context", 2, "connectioncontext.DNSContext"),
        ("ethernet_context", 3, "connectioncontext.EthernetContext"),
        ("extra_context", 4, MAP),
        ("MTU", 5, U32),
    ],
    "networkservice.NetworkServiceRequest": [
        ("connection", 1, "connection.Connection"),
        ("mechanism_preferences", 2, "repeated connection.Mechanism"),
    ],
    "registry.NetworkService": [
        ("name", 1, S),
        ("payload", 2, S),
        ("matches", 3, "repeated registry.Match"),
        ("path_ids", 4, "repeated string"),
    ],
    "registry.Match": [
        ("source_selector", 1, MAP),
        ("routes", 2, "repeated registry.Destination"),
        ("fallthrough", 3, B),
        ("metadata", 4, "registry.Metadata"),
    ],
    "registry.Metadata": [("labels", 1, MAP)],
    "registry.Destination": [("destination_selector", 1, MAP), ("weight", 2, U32)],
    "registry.NetworkServiceLabels": [("labels", 1, MAP)],
    "registry.NetworkServiceEndpoint": [
        ("name", 1, S),
        ("network_service_names", 2, "repeated string"),
        ("network_service_labels", 3, "map<string,registry.NetworkServiceLabels>"),
        ("url", 4, S),
        ("expiration_time", 5, T),
        ("initial_registration_time", 6, T),
        ("path_ids", 7, "repeated string"),
    ],
    "registry.NetworkServiceQuery": [("network_service", 1, "registry.NetworkService"), ("watch", 2, B)],
    "registry.NetworkServiceEndpointQuery": [
        ("network_service_endpoint", 1, "registry.NetworkServiceEndpoint"),
        ("watch", 2, B),
    ],
    "registry.NetworkServiceResponse": [("network_service", 1, "registry.NetworkService"), ("deleted", 2, B)],
    "registry.NetworkServiceEndpointResponse": [
        ("network_service_endpoint", 1, "registry.NetworkServiceEndpoint"),
        ("deleted", 2, B),
    ],
    "ipam.PrefixRequest": [("type", 1, "enum ipam.Type"), ("prefix", 2, S), ("exclude_prefixes", 3, "repeated string")],
    "ipam.PrefixResponse": [("prefix", 2, S), ("exclude_prefixes", 3, "repeated string")],
    "X509SVIDRequest": [],
    "X509SVIDResponse": [
        ("svids", 1, "repeated X509SVID"),
        ("crl", 2, "repeated bytes"),
        ("federated_bundles", 3, "map<string,bytes>"),
    ],
    "X509SVID": [
        ("spiffe_id", 1, S),
        ("x509_svid", 2, "bytes"),
        ("x509_svid_key", 3, "bytes"),
        ("bundle", 4, "bytes"),
        ("hint", 5, S),
    ],
    "X509BundlesRequest": [],
    "X509BundlesResponse": [("crl", 1, "repeated bytes"), ("bundles", 2, "map<string,bytes>")],
}

ENUMS: dict[str, dict[str, int]] = {
    "connection.State": {"UP": 0, "DOWN": 1, "REFRESH_REQUESTED": 2, "RESELECT_REQUESTED": 3},
    "connection.ConnectionEventType": {"INITIAL_STATE_TRANSFER": 0, "UPDATE": 1, "DELETE": 2},
    "connectioncontext.IpFamily.Family": {"IPV4": 0, "IPV6": 1},
    "ipam.Type": {"UNDEFINED": 0, "ALLOCATE": 1, "DELETE": 2},
}

EMPTY = "google.protobuf.Empty"
METHODS: dict[str, tuple[bool, str, bool, str]] = {
    # client streams, request, server streams, response
    "networkservice.NetworkService/Request": (
        False,
        "networkservice.NetworkServiceRequest",
        False,
        "connection.Connection",
    ),
    "networkservice.NetworkService/Close": (False, "connection.Connection", False, EMPTY),
    "connection.MonitorConnection/MonitorConnections": (
        False,
        "connection.MonitorScopeSelector",
        True,
        "connection.ConnectionEvent",
    ),
    "registry.NetworkServiceRegistry/Register": (False, "registry.NetworkService", False, "registry.NetworkService"),
    "registry.NetworkServiceRegistry/Find": (
        False,
        "registry.NetworkServiceQuery",
        True,
        "registry.NetworkServiceResponse",
    ),
    "registry.NetworkServiceRegistry/Unregister": (False, "registry.NetworkService", False, EMPTY),
    "registry.NetworkServiceEndpointRegistry/Register": (
        False,
        "registry.NetworkServiceEndpoint",
        False,
        "registry.NetworkServiceEndpoint",
    ),
    "registry.NetworkServiceEndpointRegistry/Find": (
        False,
        "registry.NetworkServiceEndpointQuery",
        True,
        "registry.NetworkServiceEndpointResponse",
    ),
    "registry.NetworkServiceEndpointRegistry/Unregister": (False, "registry.NetworkServiceEndpoint", False, EMPTY),
    "ipam.IPAM/ManagePrefixes": (True, "ipam.PrefixRequest", True, "ipam.PrefixResponse"),
    "SpiffeWorkloadAPI/FetchX509SVID": (False, "X509SVIDRequest", True, "X509SVIDResponse"),
    "SpiffeWorkloadAPI/FetchX509Bundles": (False, "X509BundlesRequest", True, "X509BundlesResponse"),
}


def varint(value: int) -> bytes:
    """Encodes an unsigned number, seven bits per byte, lowest first; a negative one as its 64-bit complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, data: bytes) -> bytes:
    """Encodes a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def encode(message: str, values: Mapping[str, Any]) -> bytes:
    """Encodes `values` (dicts, lists and scalars) as `message`; maps in the order of their keys."""
    out = b""
    for name, number, kind in MESSAGES[message]:
        if name in values:
            out += _field(number, kind, values[name])
    return out


def _field(number: int, kind: str, value: Any) -> bytes:
    if kind.startswith("repeated "):
        return b"".join(_element(number, kind.removeprefix("repeated "), each) for each in value)
    if kind.startswith("map<"):
        of = kind.removeprefix("map<string,").removesuffix(">")
        # An entry is a message of its own; both of its fields are always written.
        return b"".join(
            delimited(number, delimited(1, key.encode()) + _element(2, of, value[key])) for key in sorted(value)
        )
    if kind in MESSAGES:
        return _element(number, kind, value)
    return _element(number, kind, value) if value else b""


def _element(number: int, kind: str, value: Any) -> bytes:
    if kind == S:
        return delimited(number, value.encode())
    if kind == "bytes":
        return delimited(number, value)
    if kind in MESSAGES:
        return delimited(number, encode(kind, value))
    return varint(number << 3) + varint(int(value))
