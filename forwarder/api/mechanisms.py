"""Typed views over the string parameters of a mechanism.

A view holds the Mechanism message it was made from and reads and writes its parameters in
place. A parameter that is absent reads as "", 0 or False; so does a number that is not plain
decimal or does not fit, as in the API's own helpers, since what is missing is for whoever needs
it to refuse. Writing "" or 0 removes the parameter.

Source: Network Service Mesh API, `mechanisms/common`, `mechanisms/kernel`, `mechanisms/memif`,
`mechanisms/vxlan`, `mechanisms/wireguard`, `mechanisms/ipsec`, `mechanisms/vlan`,
`mechanisms/vfio`, `mechanisms/srv6`.
"""

import re
from typing import ClassVar, Final, Self, overload

from forwarder.api import constants
from forwarder.api.connection_pb2 import Mechanism

_DECIMAL: Final = re.compile(r"[0-9]{1,20}", re.ASCII)
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
"""What Go's strconv.ParseBool takes for true."""


class Text:
    """A parameter that is text."""

    def __init__(self, key: str) -> None:
        self.key = key

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: "View", owner: type) -> str: ...
    def __get__(self, view: "View | None", owner: type) -> "str | Self":
        return self if view is None else view.parameter(self.key)

    def __set__(self, view: "View", value: str) -> None:
        view.set_parameter(self.key, value)


class Number:
    """A parameter that is a decimal number of at most `bits` bits."""

    def __init__(self, key: str, *, bits: int) -> None:
        self.key = key
        self.bits = bits

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: "View", owner: type) -> int: ...
    def __get__(self, view: "View | None", owner: type) -> "int | Self":
        if view is None:
            return self
        text = view.parameter(self.key)
        if not _DECIMAL.fullmatch(text):
            return 0
        value = int(text)
        return value if value.bit_length() <= self.bits else 0

    def __set__(self, view: "View", value: int) -> None:
        if value < 0 or value.bit_length() > self.bits:
            raise ValueError(f"mechanism parameter {self.key}: {value} does not fit {self.bits} bits")
        view.set_parameter(self.key, str(value) if value else "")


class Flag:
    """A parameter that is true or false."""

    def __init__(self, key: str) -> None:
        self.key = key

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: "View", owner: type) -> bool: ...
    def __get__(self, view: "View | None", owner: type) -> "bool | Self":
        return self if view is None else view.parameter(self.key) in _TRUE

    def __set__(self, view: "View", value: bool) -> None:
        view.set_parameter(self.key, "true" if value else "")


class View:
    """The parameters that several mechanisms share; the base of one view per mechanism."""

    type: ClassVar[str] = ""
    """Mechanism.type this view is for; empty for any."""
    cls: ClassVar[str] = ""
    """Mechanism.cls that `new` gives."""

    name = Text("name")
    """Interface name; 15 bytes at most where it becomes a kernel interface."""
    inode_url = Text("inodeURL")
    """Network namespace: `file:///proc/<pid>/...` within a process, `inode://<dev>/<ino>` on the wire."""
    netns_inode = Text("netnsInode")
    """Legacy form of `inode_url`."""
    src_ip = Text("src_ip")
    dst_ip = Text("dst_ip")
    src_port = Number("src_port", bits=16)
    dst_port = Number("dst_port", bits=16)
    orig_src_ip = Text("orig_src_ip")
    """`src_ip` before a proxy put its external address there."""
    orig_dst_ip = Text("orig_dst_ip")
    pci_address = Text("pciAddress")
    token_id = Text("tokenID")
    mtu = Number("MTU", bits=32)
    """Bytes of the largest packet inside the tunnel, without Ethernet header; 0 if unknown."""

    def __init__(self, mechanism: Mechanism) -> None:
        self.mechanism = mechanism

    @classmethod
    def of(cls, mechanism: Mechanism | None) -> Self | None:
        """Returns a view of `mechanism`, or None if it is absent or of another type.

        The type alone decides; Mechanism.cls only filters preferences.
        """
        if mechanism is None or (cls.type and mechanism.type != cls.type):
            return None
        return cls(mechanism)

    @classmethod
    def new(cls, **parameters: str | int | bool) -> Self:
        """Makes a mechanism of this type; `parameters` are names of this view's attributes.

        Raises TypeError for a name the view does not have.
        """
        view = cls(Mechanism(cls=cls.cls, type=cls.type))
        for name, value in parameters.items():
            if not isinstance(getattr(cls, name, None), Text | Number | Flag):
                raise TypeError(f"mechanism {cls.type} has no parameter {name}")
            setattr(view, name, value)
        return view

    @classmethod
    def fields(cls) -> dict[str, Text | Number | Flag]:
        """Returns this view's parameters by attribute name."""
        return {
            name: value
            for owner in reversed(cls.__mro__)
            for name, value in vars(owner).items()
            if isinstance(value, Text | Number | Flag)
        }

    def parameter(self, key: str) -> str:
        """Returns the text of a parameter, "" if absent."""
        return self.mechanism.parameters.get(key, "")

    def set_parameter(self, key: str, value: str) -> None:
        """Writes a parameter, or removes it if `value` is empty."""
        if value:
            self.mechanism.parameters[key] = value
        else:
            self.mechanism.parameters.pop(key, None)


class Kernel(View):
    """A kernel interface in a pod's network namespace."""

    type = constants.KERNEL
    cls = constants.LOCAL

    supports_vlan = Flag("supportsVlan")
    """The client can take a VLAN of a shared interface."""
    vlan = Number("vlan", bits=12)
    """VLAN id of the shared interface; addresses and routes are then not ours to set."""
    route_local_net = Flag("routeLocalNet")
    iptables_nat_template = Text("IPTables4NatTemplate")
    """Lines of arguments for the NAT table, `;` between them, with `{{.NsmInterfaceName}}` and so on."""


class Memif(View):
    """A shared-memory interface; its control socket lives in a network namespace."""

    type = constants.MEMIF
    cls = constants.LOCAL

    socket_file = Text("socketfile")
    """Where the server side listens: `@name`, an abstract socket in the namespace of `inode_url`."""


class Vxlan(View):
    """Ethernet in UDP (RFC 7348)."""

    type = constants.VXLAN
    cls = constants.REMOTE

    vni = Number("vni", bits=24)


class Wireguard(View):
    """IP in WireGuard."""

    type = constants.WIREGUARD
    cls = constants.REMOTE

    src_public_key = Text("src_public_key")
    """Standard base64 of 32 bytes."""
    dst_public_key = Text("dst_public_key")


class Ipsec(View):
    """IP in ESP in UDP, keyed by IKEv2."""

    type = constants.IPSEC
    cls = constants.REMOTE

    src_public_key = Text("src_public_key")
    """Standard base64 of a self-signed certificate (DER)."""
    dst_public_key = Text("dst_public_key")


class Vlan(View):
    """A VLAN on a device of the forwarder."""

    type = constants.VLAN
    cls = constants.REMOTE

    vlan_id = Number("vlan-id", bits=12)
    """0: untagged, the device itself."""


class Vfio(View):
    """A PCI device handed to user space."""

    type = constants.VFIO
    cls = constants.LOCAL

    cgroup_directory = Text("cgroupDir")
    iommu_group = Number("iommuGroup", bits=32)
    vfio_major = Number("vfioMajor", bits=32)
    vfio_minor = Number("vfioMinor", bits=32)
    device_major = Number("deviceMajor", bits=32)
    device_minor = Number("deviceMinor", bits=32)


class Noop(View):
    """Nothing on the datapath."""

    type = constants.NOOP
    cls = constants.LOCAL


class Srv6(View):
    """IPv6 segment routing; the API has its names, nobody serves it."""

    type = constants.SRV6
    cls = constants.REMOTE

    src_host_ip = Text("src_host_ip")
    dst_host_ip = Text("dst_host_ip")
    src_bsid = Text("src_bsid")
    dst_bsid = Text("dst_bsid")
    src_localsid = Text("src_localsid")
    dst_localsid = Text("dst_localsid")
    src_host_localsid = Text("src_host_localsid")
    dst_host_localsid = Text("dst_host_localsid")
    src_hw_addr = Text("src_hw_addr")
    dst_hw_addr = Text("dst_hw_addr")


VIEWS: Final[dict[str, type[View]]] = {
    view.type: view for view in (Kernel, Memif, Vxlan, Wireguard, Ipsec, Vlan, Vfio, Noop, Srv6)
}
"""The view of each mechanism type."""


def view(mechanism: Mechanism) -> View:
    """Returns the view for the mechanism's type, or a plain View for a type we do not know."""
    return VIEWS.get(mechanism.type, View)(mechanism)
