"""Frames of every kind that may cross a wire, as hypothesis strategies and as a fixed set.

All are complete wire frames: what a wire must carry unchanged. Payload ETHERNET frames start at the
destination address; packets for payload IP start at the IP header.
"""

import struct
from collections.abc import Iterator

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

SHORTEST = 60
BROADCAST = b"\xff" * 6
ETHERTYPES = (0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x8847, 0x88CC, 0x8863, 0x88F7, 0x0842, 0x9000, 0x05DC, 0xFFFF)

_payload_bytes = st.binary(min_size=64, max_size=64)


def stretched(seed: bytes, length: int) -> bytes:
    """Returns `length` bytes in which no two places look alike, drawn from a short seed.

    Frames this long would be slow to draw byte by byte.
    """
    words = (length + 7) // 8
    base = int.from_bytes(seed[:8], "big")
    return b"".join(
        struct.pack("!Q", (base + word * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF) for word in range(words)
    )[:length]


def mac_addresses() -> st.SearchStrategy[bytes]:
    """Unicast, multicast and broadcast addresses."""
    return st.one_of(st.just(BROADCAST), st.binary(min_size=6, max_size=6))


@st.composite
def raw_frames(draw: st.DrawFn, *, mtu: int = 1500) -> bytes:
    """Frames of every length from 60 bytes to the MTU and of every EtherType, tagged or not."""
    tags = draw(st.lists(st.tuples(st.sampled_from((0x8100, 0x88A8)), st.integers(0, 0xFFFF)), max_size=2))
    kind = draw(st.one_of(st.sampled_from(ETHERTYPES), st.integers(0, 0xFFFF)))
    head = draw(mac_addresses()) + draw(mac_addresses()) + b"".join(struct.pack("!HH", *tag) for tag in tags)
    length = draw(st.integers(SHORTEST, mtu + 14 + 4 * len(tags)))
    head += struct.pack("!H", kind)
    return head + stretched(draw(_payload_bytes), length - len(head))


@st.composite
def ip_packets(draw: st.DrawFn, *, mtu: int = 1500) -> bytes:
    """Whole IPv4 and IPv6 packets: UDP, TCP, ICMP, other protocols, and single fragments."""
    version = draw(st.sampled_from((4, 6)))
    header = 20 if version == 4 else 40
    room = mtu - header - 28
    body = Raw(stretched(draw(_payload_bytes), draw(st.integers(0, room))))
    ports = {"sport": draw(st.integers(1, 65535)), "dport": draw(st.integers(1, 65535))}
    upper: Packet = draw(
        st.sampled_from(("udp", "tcp", "icmp", "fragment", "other")).map(lambda kind: _upper(kind, version, ports))
    )
    base = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    if isinstance(upper, IP):  # a fragment of IPv4 is said in the IP header
        base.frag, base.flags, base.proto = upper.frag, upper.flags, upper.proto
        return bytes(base / body)
    return bytes(base / upper / body)


def _upper(kind: str, version: int, ports: dict[str, int]) -> Packet:
    match kind:
        case "udp":
            return UDP(**ports)
        case "tcp":
            return TCP(**ports, flags="PA", seq=ports["sport"])
        case "icmp":
            return ICMP(id=ports["sport"]) if version == 4 else ICMPv6EchoRequest(id=ports["sport"])
        case "fragment":
            return IP(frag=185, flags="MF", proto=17) if version == 4 else IPv6ExtHdrFragment(offset=185, m=1, nh=17)
        case _:
            return Raw(b"")


def ethernet_of(packet: bytes, *, source: str = "02:00:00:00:00:01", destination: str = "02:00:00:00:00:02") -> bytes:
    """Puts an Ethernet header before an IP packet, padded to the shortest frame."""
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    frame = bytes(Ether(src=source, dst=destination, type=kind)) + packet
    return frame.ljust(SHORTEST, b"\0")


def every_size(mtu: int = 1500) -> Iterator[bytes]:
    """One frame of an unassigned EtherType for every length from 60 bytes to the MTU."""
    head = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\xb5"
    for length in range(SHORTEST, mtu + 14 + 1):
        yield head + stretched(struct.pack("!Q", length), length - len(head))


def samples(mtu: int = 1500) -> list[bytes]:
    """A few dozen frames, one of each kind a wire has trouble with."""
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    v4, v6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    big = Raw(stretched(b"samples!", mtu - 20))
    made = [
        ether / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
        Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
        Ether(src="02:00:00:00:00:01", dst="01:00:5e:00:00:fb") / v4 / UDP(sport=5353, dport=5353) / b"multicast",
        ether / v4 / ICMP() / b"echo",
        ether / v4 / UDP(sport=1, dport=2) / b"",
        ether / v4 / UDP(sport=1, dport=2, chksum=0) / b"no checksum",
        ether / v4 / TCP(sport=1, dport=2, flags="SEC", options=[("MSS", 1460), ("WScale", 7)]),
        ether / IP(src="10.0.0.1", dst="10.0.0.2", tos=3, ttl=1, options=b"\x94\x04\0\0") / UDP() / b"router alert",
        ether / IP(src="10.0.0.1", dst="10.0.0.2", proto=89) / b"ospf",
        ether / v6 / ICMPv6EchoRequest() / b"echo",
        ether / v6 / UDP(sport=1, dport=2) / b"v6",
        ether / v6 / IPv6ExtHdrFragment(id=7, m=1) / UDP(sport=1, dport=2) / Raw(b"f" * 64),
        ether / Dot1Q(vlan=0, prio=7) / v4 / UDP() / b"priority",
        ether / Dot1Q(vlan=4094) / v4 / UDP() / b"tagged",
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x88A8)
        / Dot1Q(vlan=5)
        / Dot1Q(vlan=6)
        / v4
        / UDP(),
        ether / v4 / big,
    ]
    made += [ether / piece for piece in fragment(v4 / UDP(sport=1, dport=2) / Raw(b"x" * 4000), fragsize=1480)]
    return [bytes(frame).ljust(SHORTEST, b"\0") for frame in made]
