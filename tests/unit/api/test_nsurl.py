"""The URL by which a workload asks for a network service."""

import pytest

from forwarder.api.connection_pb2 import Mechanism
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "mechanism", "service", "interface", "labels"),
    [
        ("kernel://icmp-responder", "KERNEL", "icmp-responder", None, {}),
        ("kernel://icmp-responder/nsm-1", "KERNEL", "icmp-responder", "nsm-1", {}),
        ("kernel://icmp/", "KERNEL", "icmp", "", {}),
        ("kernel://icmp/a/b/nsm-1", "KERNEL", "icmp", "nsm-1", {}),
        ("memif://service?A=1&B=2", "MEMIF", "service", None, {"A": "1", "B": "2"}),
        ("memif://service/m0?A=1&A=2&B=", "MEMIF", "service", "m0", {"A": "1,2", "B": ""}),
        ("VFIO://service?sriovToken=intel/10G", "VFIO", "service", None, {"sriovToken": "intel/10G"}),
        ("kernel://my-service@dc.example.com/ms1", "KERNEL", "my-service@dc.example.com", "ms1", {}),
        ("kernel://user:secret@domain/x", "KERNEL", "user@domain", "x", {}),
        ("kernel://@service/x", "KERNEL", "service", "x", {}),
        ("kernel://service:80/x", "KERNEL", "service", "x", {}),
        ("kernel://My.Service_1/x", "KERNEL", "My.Service_1", "x", {}),
        ("kernel://s/a-very-long-interface-name", "KERNEL", "s", "a-very-long-interface-name", {}),
        ("kernel://s?a=x%20y&b=x+y&c=%C3%84", "KERNEL", "s", None, {"a": "x y", "b": "x y", "c": "Ä"}),
        ("kernel://s/x#fragment", "KERNEL", "s", "x", {}),
    ],
)
def test_parts_of_a_url(text: str, mechanism: str, service: str, interface: str | None, labels: dict[str, str]) -> None:
    parsed = NetworkServiceURL.parse(text)
    assert (parsed.mechanism, parsed.network_service, parsed.interface) == (mechanism, service, interface)
    assert dict(parsed.labels) == labels
    assert NetworkServiceURL.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "does not start with <mechanism>://"),
        ("icmp-responder", "does not start with <mechanism>://"),
        ("kernel:/service", "does not start with <mechanism>://"),
        ("1kernel://service", "does not start with <mechanism>://"),
        ("://service", "does not start with <mechanism>://"),
        ("kernel://", "names no network service"),
        ("kernel:///nsm-1", "names no network service"),
        ("kernel://?a=b", "names no network service"),
        ("kernel://user@/nsm-1", "names no network service"),
        ("kernel://ser vice", "blank or control character"),
        ("kernel://service/\n", "blank or control character"),
        ("kernel://service/%zz", "%"),
        ("kernel://service:port", "Port"),
        ("kernel://service:99999", "Port"),
        ("kernel://[::1/x", "IPv6"),
        ("kernel://a%2Fb/x", "a/b"),
        ("kernel://s/a%2Fb", "slash"),
    ],
)
def test_a_malformed_url_is_refused_with_the_url_and_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        NetworkServiceURL.parse(text)
    assert repr(text) in str(caught.value)
    assert reason in str(caught.value)


def test_a_url_becomes_a_first_request() -> None:
    request = NetworkServiceURL.parse("kernel://icmp@far.org/nsm-1?app=web").request("nsc-0")
    assert request.connection.id == "nsc-0"
    assert request.connection.network_service == "icmp@far.org"
    assert dict(request.connection.labels) == {"app": "web"}
    expected = Mechanism(cls="LOCAL", type="KERNEL", parameters={"name": "nsm-1"})
    assert list(request.mechanism_preferences) == [expected]
    assert not request.connection.HasField("mechanism")
    assert not request.connection.HasField("path")
    assert not request.connection.HasField("context")
    assert request.connection.payload == ""


def test_a_url_without_path_leaves_the_name_open() -> None:
    assert NetworkServiceURL.parse("memif://s").preference() == Mechanism(cls="LOCAL", type="MEMIF")


def test_a_url_is_built_from_its_parts() -> None:
    url = NetworkServiceURL(mechanism="kernel", network_service="s@d", interface="nsm-1", labels={"a": "1&2"})
    assert str(url) == "kernel://s@d/nsm-1?a=1%262"


@pytest.mark.parametrize(
    ("mechanism", "service", "interface"),
    [
        ("", "s", None),
        ("kernel", "", None),
        ("kernel", "a@", None),
        ("kernel", "@d", None),
        ("kernel", "a@b@c", None),
        ("kernel", "a/b", None),
        ("kernel", "s", "a/b"),
    ],
)
def test_parts_that_no_url_can_express_are_refused(mechanism: str, service: str, interface: str | None) -> None:
    with pytest.raises(InvalidRequest):
        NetworkServiceURL(mechanism=mechanism, network_service=service, interface=interface)
