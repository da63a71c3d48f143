"""Views over mechanism parameters: each field reads and writes its own key, and forgives what it cannot read."""

import pytest

from forwarder.api import constants, mechanisms
from forwarder.api.connection_pb2 import Mechanism
from forwarder.api.mechanisms import VIEWS, Flag, Kernel, Memif, Number, Text, View, Vxlan

COMMON = {
    "name": "name",
    "inode_url": "inodeURL",
    "netns_inode": "netnsInode",
    "src_ip": "src_ip",
    "dst_ip": "dst_ip",
    "src_port": "src_port",
    "dst_port": "dst_port",
    "orig_src_ip": "orig_src_ip",
    "orig_dst_ip": "orig_dst_ip",
    "pci_address": "pciAddress",
    "token_id": "tokenID",
    "mtu": "MTU",
}
KEYS: dict[str, dict[str, str]] = {
    "KERNEL": {
        "supports_vlan": "supportsVlan",
        "vlan": "vlan",
        "route_local_net": "routeLocalNet",
        "iptables_nat_template": "IPTables4NatTemplate",
    },
    "MEMIF": {"socket_file": "socketfile"},
    "VXLAN": {"vni": "vni"},
    "WIREGUARD": {"src_public_key": "src_public_key", "dst_public_key": "dst_public_key"},
    "IPSEC": {"src_public_key": "src_public_key", "dst_public_key": "dst_public_key"},
    "VLAN": {"vlan_id": "vlan-id"},
    "VFIO": {
        "cgroup_directory": "cgroupDir",
        "iommu_group": "iommuGroup",
        "vfio_major": "vfioMajor",
        "vfio_minor": "vfioMinor",
        "device_major": "deviceMajor",
        "device_minor": "deviceMinor",
    },
    "NOOP": {},
    "SRV6": {
        key: key
        for key in (
            *("src_host_ip", "dst_host_ip", "src_bsid", "dst_bsid", "src_localsid", "dst_localsid"),
            *("src_host_localsid", "dst_host_localsid", "src_hw_addr", "dst_hw_addr"),
        )
    },
}
EACH = [(type_, name) for type_ in KEYS for name in (*COMMON, *KEYS[type_])]
NUMBERS = [(type_, name) for type_, name in EACH if isinstance(VIEWS[type_].fields()[name], Number)]


def sample(field: Text | Number | Flag) -> tuple[str | int | bool, str]:
    """Returns a value and its text."""
    match field:
        case Text():
            return "a value", "a value"
        case Number():
            largest = (1 << field.bits) - 1
            return largest, str(largest)
        case Flag():
            return True, "true"


def test_views_have_exactly_the_parameters_of_the_api() -> None:
    assert {type_: {name: field.key for name, field in view.fields().items()} for type_, view in VIEWS.items()} == {
        type_: COMMON | own for type_, own in KEYS.items()
    }


@pytest.mark.parametrize(("type_", "name"), EACH)
def test_each_field_round_trips_through_its_own_key_only(type_: str, name: str) -> None:
    view = VIEWS[type_].new()
    value, text = sample(view.fields()[name])
    setattr(view, name, value)
    assert dict(view.mechanism.parameters) == {view.fields()[name].key: text}
    read = mechanisms.view(Mechanism.FromString(view.mechanism.SerializeToString()))
    assert getattr(read, name) == value
    assert all(not getattr(read, other) for other in view.fields() if other != name)


@pytest.mark.parametrize(("type_", "name"), EACH)
def test_an_empty_value_removes_the_parameter(type_: str, name: str) -> None:
    value, _ = sample(VIEWS[type_].fields()[name])
    view = VIEWS[type_].new(**{name: value})
    setattr(view, name, type(value)())
    assert not view.mechanism.parameters
    setattr(view, name, type(value)())
    assert getattr(view, name) == type(value)()


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", "1.0", " 1", "1 ", "0x10", "1_0", "\u0663", "1e3", "9" * 40])
@pytest.mark.parametrize(("type_", "name"), NUMBERS)
def test_a_number_that_cannot_be_read_is_zero(type_: str, name: str, text: str) -> None:
    view = VIEWS[type_].new()
    view.mechanism.parameters[view.fields()[name].key] = text
    assert getattr(view, name) == 0


@pytest.mark.parametrize(("type_", "name"), NUMBERS)
def test_a_number_too_large_is_zero_when_read_and_an_error_when_written(type_: str, name: str) -> None:
    view = VIEWS[type_].new()
    field = view.fields()[name]
    assert isinstance(field, Number)
    view.mechanism.parameters[field.key] = str(1 << field.bits)
    assert getattr(view, name) == 0
    with pytest.raises(ValueError, match=field.key):
        setattr(view, name, 1 << field.bits)
    with pytest.raises(ValueError, match=field.key):
        setattr(view, name, -1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("t", True),
        ("TRUE", True),
        ("True", True),
        ("true", True),
        ("tRUE", False),
        ("yes", False),
        ("0", False),
        ("f", False),
        ("false", False),
        ("", False),
        ("2", False),
    ],
)
def test_flags_read_as_go_reads_them(text: str, value: bool) -> None:
    view = Kernel.new()
    view.mechanism.parameters["supportsVlan"] = text
    assert view.supports_vlan is value


@pytest.mark.parametrize("type_", VIEWS)
def test_new_mechanisms_have_their_type_and_class(type_: str) -> None:
    mechanism = VIEWS[type_].new().mechanism
    local = {constants.KERNEL, constants.MEMIF, constants.VFIO, constants.NOOP}
    assert (mechanism.type, mechanism.cls) == (type_, "LOCAL" if type_ in local else "REMOTE")


def test_a_view_is_had_only_of_its_own_type() -> None:
    assert Kernel.of(Mechanism(type="MEMIF")) is None
    assert Kernel.of(None) is None
    assert Memif.of(Mechanism(type="MEMIF", cls="REMOTE")) is not None
    assert type(mechanisms.view(Mechanism(type="VXLAN"))) is Vxlan
    assert type(mechanisms.view(Mechanism(type="TELEPATHY"))) is View


def test_a_view_writes_the_message_it_was_made_from() -> None:
    mechanism = Mechanism(type="KERNEL")
    Kernel(mechanism).name = "nsm-1"
    assert mechanism.parameters["name"] == "nsm-1"


def test_new_refuses_names_the_view_does_not_have() -> None:
    with pytest.raises(TypeError, match="socket_file"):
        Kernel.new(socket_file="@x")
    with pytest.raises(TypeError, match="mechanism"):
        Kernel.new(mechanism="x")
