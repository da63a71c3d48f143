"""The words of the API that are plain strings.

Source: Network Service Mesh API, packages `payload`, `mechanisms/cls` and `mechanisms/*`.
"""

from typing import Final

ETHERNET: Final = "ETHERNET"
"""Payload: a transparent layer 2 wire."""
IP: Final = "IP"
"""Payload: packets without Ethernet header; what an empty NetworkService.payload means."""

LOCAL: Final = "LOCAL"
"""Mechanism class: both sides on one node."""
REMOTE: Final = "REMOTE"
"""Mechanism class: between nodes."""

KERNEL: Final = "KERNEL"
MEMIF: Final = "MEMIF"
VFIO: Final = "VFIO"
NOOP: Final = "NOOP"
VXLAN: Final = "VXLAN"
WIREGUARD: Final = "WIREGUARD"
IPSEC: Final = "IPSEC"
VLAN: Final = "VLAN"
SRV6: Final = "SRV6"

VXLAN_PORT: Final = 4789
"""UDP port of VXLAN where a mechanism names none (RFC 7348)."""
WIREGUARD_PORT: Final = 51820
IPSEC_PORT: Final = 4500
"""UDP port of IPsec with NAT traversal (RFC 3948)."""

INTERFACE_NAME_BYTES: Final = 15
"""Longest name of a kernel interface (linux/if.h IFNAMSIZ, less the final zero)."""

NODE_NAME: Final = "nodeName"
POD_NAME: Final = "podName"
CLUSTER_NAME: Final = "clusterName"
SRIOV_TOKEN: Final = "sriovToken"  # noqa: S105 - the name of a label
SERVICE_DOMAIN: Final = "serviceDomain"
VIA: Final = "via"
"""Label by which a remote VLAN names the forwarder's device."""

FORWARDER_SERVICE: Final = "forwarder"
"""Network service under which forwarders register, unless configured otherwise."""
P2P: Final = "p2p"
"""Label, "true", that an endpoint's match requires of a forwarder by default."""
