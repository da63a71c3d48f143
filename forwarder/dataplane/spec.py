"""What is asked for when a port is opened: plain values, checked here."""

from dataclasses import dataclass
from enum import Enum

from forwarder.errors import DataplaneError


class Mode(Enum):
    """What a frame starts with."""

    ETHERNET = "ethernet"
    IP = "ip"


class Role(Enum):
    """Who listens on a memif socket (server) and who connects and owns the memory (client)."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """What `struct virtio_net_hdr` says of a frame; all zero for a complete wire frame.

    Offsets count from the first byte of the frame: the Ethernet header in Ethernet
    mode, the IP header in IP mode. Numbers: linux/virtio_net.h.
    """

    flags: int = 0
    gso_type: int = 0
    header_length: int = 0
    """A hint that may be wrong; nothing relies on it."""
    gso_size: int = 0
    """Payload bytes of each segment."""
    csum_start: int = 0
    csum_offset: int = 0
    """From `csum_start`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPortSpec:
    """A kernel interface whose frames the data plane takes: our end of a veth pair."""

    name: str
    """The link's name, for messages."""
    ifindex: int
    netns: int | None = None
    """Descriptor of the network namespace the link is in; None for our own. Borrowed until the port closes."""
    mode: Mode = Mode.ETHERNET
    mtu_bytes: int = 1500
    """Largest packet, without Ethernet header and VLAN tag."""
    mac: bytes = b""
    """The link's own address, six bytes; needed in IP mode."""
    peer_mac: bytes = b""
    """The address of the other end; needed in IP mode, to rebuild Ethernet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemifPortSpec:
    """One side of a memif connection."""

    role: Role
    address: str
    """Socket: `@name` for an abstract one, else a path."""
    netns: int | None = None
    """Descriptor of the namespace an abstract socket lives in; None for our own. Borrowed until the port closes."""
    interface_id: int = 0
    mode: Mode = Mode.ETHERNET
    secret: bytes = b""
    """At most 24 bytes; empty for none."""
    log2_ring_size: int = 10
    """Slots per ring, as an exponent; 8 to 14."""
    buffer_bytes: int = 2048
    """Bytes per slot when we own the memory (client)."""
    max_frame_bytes: int = 65550
    allow_unsealed: bool = False
    """Accept regions that the peer could truncate (zero-copy DPDK and VPP)."""
    name: str = "vwire"
    """Shown to the peer; 31 bytes at most."""

    def __post_init__(self) -> None:
        """Raises DataplaneError for values outside the protocol's bounds."""
        if not 8 <= self.log2_ring_size <= 14:
            raise DataplaneError(f"memif {self.address}: log2_ring_size {self.log2_ring_size} is not within 8..14")
        if not 2048 <= self.buffer_bytes <= 65535:
            raise DataplaneError(f"memif {self.address}: buffer_bytes {self.buffer_bytes} is not within 2048..65535")
        if len(self.secret) > 24:
            raise DataplaneError(f"memif {self.address}: the secret has {len(self.secret)} bytes, more than 24")
