"""Our segments are the kernel's, byte by byte.

The same super-frame goes through us and into a veth whose segmentation and checksum offloads are off,
so that the kernel has to do it in software.
"""

import random
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from forwarder.dataplane.offload import segment
from forwarder.dataplane.spec import Offload
from tests.support.netns import network_namespaces, veth_pair
from tests.support.packet_socket import PacketSocket, packet_socket, quiet
from tests.support.superframe import NEEDS_CSUM, partial_checksum, super_frame

ETHERNET = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
IPV4 = IP(src="10.1.2.3", dst="10.1.2.4", id=0xFFFD, flags="DF", tos=2)
IPV6 = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=2, fl=5)
FULL_TCP = TCP(
    sport=4, dport=5, seq=0xFFFFFF00, ack=7, flags="FPCEA", options=[("Timestamp", (1, 2)), ("NOP", 0), ("NOP", 0)]
)
PLAIN_TCP = TCP(sport=4, dport=5, seq=1, ack=7, flags="PA")
DATAGRAM = UDP(sport=4, dport=5)

PACKETS = {
    "tcp4": ETHERNET / IPV4 / FULL_TCP,
    "tcp4-plain": ETHERNET / IPV4 / PLAIN_TCP,
    "tcp4-options": ETHERNET / IP(src="10.1.2.3", dst="10.1.2.4", id=9, options=[IPOption_Router_Alert()]) / FULL_TCP,
    "tcp6": ETHERNET / IPV6 / FULL_TCP,
    "tcp6-extensions": ETHERNET
    / IPV6
    / IPv6ExtHdrHopByHop()
    / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
    / FULL_TCP,
    "udp4": ETHERNET / IPV4 / DATAGRAM,
    "udp6": ETHERNET / IPV6 / DATAGRAM,
    "tcp4-vlan": ETHERNET / Dot1Q(vlan=5, prio=3) / IPV4 / FULL_TCP,
    "tcp6-vlan": ETHERNET / Dot1Q(vlan=4094) / IPV6 / FULL_TCP,
    "udp4-vlan": ETHERNET / Dot1Q(vlan=5) / IPV4 / DATAGRAM,
    "tcp4-qinq": ETHERNET / Dot1AD(vlan=7) / Dot1Q(vlan=5) / IPV4 / FULL_TCP,
}


@pytest.fixture(scope="module")
def software_link() -> Iterator[tuple[PacketSocket, PacketSocket]]:
    """A veth on which nothing is offloaded: where to send, and where it arrives."""
    with network_namespaces(2) as (a, b):
        veth_pair(a, b, mtu=9100)
        for netns, link in ((a, "veth-a"), (b, "veth-b")):
            quiet(netns, link)
        a.run("ethtool", "-K", "veth-a", "tx", "off", "sg", "off", "tso", "off", "gso", "off", check=False)
        b.run("ethtool", "-K", "veth-b", "gro", "off", check=False)
        with packet_socket(a, "veth-a", vnet_hdr=True) as sender, packet_socket(b, "veth-b") as receiver:
            yield sender, receiver


@pytest.mark.parametrize("size", [1448, 536, 8948])
@pytest.mark.parametrize("name", PACKETS)
def test_segments_equal_those_of_the_kernel(
    name: str, size: int, software_link: tuple[PacketSocket, PacketSocket]
) -> None:
    sender, receiver = software_link
    generator = random.Random(size)
    for length in (size * 2, size * 2 + 1, size + size // 2, min(size * 40, 60000)):
        made = super_frame(PACKETS[name], generator.randbytes(length), size)
        sender.send(made.frame, made.offload)
        ours = segment(made.frame, made.offload)
        assert receiver.receive_all(len(ours)) == ours


@pytest.mark.parametrize("length", [0, 1, 2, 999, 8000])
@pytest.mark.parametrize(
    ("packet", "offset"),
    [
        pytest.param(ETHERNET / IPV4 / PLAIN_TCP, 16, id="tcp4"),
        pytest.param(ETHERNET / IPV6 / DATAGRAM, 6, id="udp6"),
        pytest.param(ETHERNET / Dot1Q(vlan=3) / IPV4 / DATAGRAM, 6, id="udp4-vlan"),
    ],
)
def test_completed_checksums_equal_those_of_the_kernel(
    packet: Packet, offset: int, length: int, software_link: tuple[PacketSocket, PacketSocket]
) -> None:
    sender, receiver = software_link
    whole = bytes(packet / random.Random(length).randbytes(length))
    start = len(bytes(packet)) - (20 if offset == 16 else 8)
    frame = partial_checksum(whole, start, offset)
    offload = Offload(flags=NEEDS_CSUM, csum_start=start, csum_offset=offset)
    sender.send(frame, offload)
    assert receiver.receive_all(1) == segment(frame, offload) == [whole]
