"""What a kernel left undone is finished exactly as a wire wants it."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from forwarder.dataplane.offload import segment
from forwarder.dataplane.spec import Offload
from tests.support.superframe import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    NEEDS_CSUM,
    partial_checksum,
    super_frame,
)

ETHERNET = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
IPV4 = IP(src="10.1.2.3", dst="10.1.2.4", id=0xFFFD, flags="DF", ttl=64, tos=2)
IPV6 = IPv6(src="2001:db8::1", dst="2001:db8:ffff::2", tc=2, fl=0x12345, hlim=64)
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (0x01020304, 0x05060708))]
TCP_LAST = TCP(sport=40000, dport=5201, seq=0xFFFFFFF0, ack=7, flags="FPA", window=501, options=TIMESTAMPS)
TCP_CWR = TCP(sport=1, dport=2, seq=1000, ack=7, flags="CPA", window=501)
TCP_URGENT = TCP(
    sport=1, dport=2, seq=0, ack=7, flags="AU", urgptr=3, options=[("SAckOK", b""), ("NOP", None), ("NOP", None)]
)
DATAGRAMS = UDP(sport=1, dport=2)

LINKS = {
    "untagged": ETHERNET,
    "vlan": ETHERNET / Dot1Q(vlan=5, prio=3),
    "qinq": ETHERNET / Dot1AD(vlan=7) / Dot1Q(vlan=4094),
}
NETWORKS = {
    "ipv4": IPV4,
    "ipv4-options": IP(src="10.1.2.3", dst="10.1.2.4", id=1, options=[IPOption_Router_Alert()]),
    "ipv6": IPV6,
    "ipv6-hop-by-hop": IPV6 / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]),
    "ipv6-extensions": IPV6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]),
}
TRANSPORTS = {"tcp-last": TCP_LAST, "tcp-cwr": TCP_CWR, "tcp-urgent": TCP_URGENT, "udp": DATAGRAMS}


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("link", LINKS)
def test_a_super_frame_becomes_the_segments_scapy_builds(link: str, network: str, transport: str) -> None:
    packet = LINKS[link] / NETWORKS[network] / TRANSPORTS[transport]
    for length, size in ((2897, 1448), (2896, 1448), (85, 37)):
        made = super_frame(packet, noise(length), size)
        assert segment(made.frame, made.offload) == made.segments


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_packet_without_ethernet_is_segmented_too(network: str, transport: str) -> None:
    made = super_frame(NETWORKS[network] / TRANSPORTS[transport], noise(4000), 1000)
    assert segment(made.frame, made.offload, ip_mode=True) == made.segments


def test_a_frame_of_64_kib_is_segmented() -> None:
    made = super_frame(ETHERNET / IPV4 / TCP_LAST, noise(65535 - 20 - 32), 9000)
    assert segment(made.frame, made.offload) == made.segments


@pytest.mark.parametrize("hint", [0, 1, 14, 66, 1500, 65535])
def test_the_header_length_hint_is_not_trusted(hint: int) -> None:
    made = super_frame(ETHERNET / IPV4 / TCP_LAST, noise(4000), 1000)
    offload = Offload(
        flags=NEEDS_CSUM,
        gso_type=GSO_TCPV4,
        gso_size=1000,
        header_length=hint,
        csum_start=made.offload.csum_start,
        csum_offset=16,
    )
    assert segment(made.frame, offload) == made.segments


def test_a_super_frame_with_its_whole_checksum_is_segmented_too() -> None:
    made = super_frame(ETHERNET / IPV6 / TCP_CWR, noise(4000), 1000, partial=False)
    assert segment(made.frame, made.offload) == made.segments


def test_udp_over_ipv4_sent_without_checksum_stays_without() -> None:
    made = super_frame(ETHERNET / IPV4 / UDP(sport=1, dport=2, chksum=0), noise(4000), 1000, partial=False)
    assert segment(made.frame, made.offload) == made.segments
    assert all(one[40:42] == b"\0\0" for one in made.segments)


def test_a_payload_shorter_than_a_segment_is_one_frame() -> None:
    made = super_frame(ETHERNET / IPV4 / TCP_LAST, noise(100), 1448)
    assert segment(made.frame, made.offload) == made.segments
    assert len(made.segments) == 1


def test_pieces_at_any_offset_make_no_difference() -> None:
    made = super_frame(ETHERNET / IPV4 / TCP_LAST, noise(3001), 1001)
    generator = random.Random(2)
    for _ in range(200):
        cuts = [generator.randrange(len(made.frame) + 1) for _ in range(generator.randrange(60))]
        assert segment(made.frame, made.offload, cuts=cuts) == made.segments


def test_a_routing_header_keeps_the_final_destination_in_the_checksum() -> None:
    # The sum over the pseudo-header that the sender left is over the last address of the route (RFC 8200, 8.1).
    final = "2001:db8::99"
    route = IPv6ExtHdrRouting(type=2, addresses=[final], segleft=1)
    packet = ETHERNET / IPV6 / route / TCP_LAST
    made = super_frame(packet, noise(4000), 1000)
    assert segment(made.frame, made.offload) == made.segments
    whole = super_frame(packet, noise(4000), 1000, partial=False)
    with pytest.raises(ValueError, match="drop reason 8"):
        segment(whole.frame, whole.offload)


def checksummed(packet: Packet, start: int, offset: int) -> tuple[bytes, bytes, Offload]:
    """Returns the frame as sent, as it must become, and its offload."""
    whole = bytes(packet)
    return (
        partial_checksum(whole, start, offset),
        whole,
        Offload(flags=NEEDS_CSUM, csum_start=start, csum_offset=offset),
    )


@pytest.mark.parametrize("length", [0, 1, 2, 3, 17, 64, 65, 127, 1000, 1472, 9001, 65000])
@pytest.mark.parametrize("cuts", [(), (43,), (1, 2, 3, 43, 44, 45)], ids=["whole", "two", "many"])
def test_a_partial_checksum_is_completed(length: int, cuts: tuple[int, ...]) -> None:
    for packet, start, offset in (
        (ETHERNET / IPV4 / UDP(sport=1, dport=2), 34, 6),
        (ETHERNET / IPV4 / TCP_CWR, 34, 16),
        (ETHERNET / IPV6 / TCP_CWR, 54, 16),
        (ETHERNET / Dot1Q(vlan=9) / IPV4 / ICMP(), 38, 2),
    ):
        frame, whole, offload = checksummed(packet / Raw(noise(length)), start, offset)
        assert segment(frame, offload, cuts=[cut for cut in cuts if cut < len(frame)]) == [whole]


def test_a_udp_checksum_of_zero_is_sent_as_all_ones() -> None:
    # With the checksum of the packet without it as payload, the sum of all words is all ones.
    blank = bytes(IPV4 / UDP(sport=1, dport=2) / Raw(b"\0\0"))
    packet = bytes(IPV4 / UDP(sport=1, dport=2) / Raw(blank[26:28]))
    assert packet[26:28] == b"\xff\xff"
    frame = partial_checksum(packet, 20, 6)
    assert segment(frame, Offload(flags=NEEDS_CSUM, csum_start=20, csum_offset=6), ip_mode=True) == [packet]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 1201])
@pytest.mark.parametrize("network", [IPV4, IPV6], ids=["ipv4", "ipv6"])
def test_an_sctp_checksum_is_a_crc32c(network: Packet, length: int) -> None:
    packet = ETHERNET / network / SCTP(sport=1, dport=2, tag=3) / SCTPChunkData(data=noise(length))
    whole = bytes(packet)
    start = len(bytes(ETHERNET / network))
    unfinished = whole[: start + 8] + b"\xde\xad\xbe\xef" + whole[start + 12 :]
    offload = Offload(flags=NEEDS_CSUM, csum_start=start, csum_offset=8)
    assert segment(unfinished, offload) == [whole]
    assert segment(unfinished, offload, cuts=(start + 3, start + 9, start + 13)) == [whole]


def test_a_complete_frame_stays_as_it_is() -> None:
    frame = noise(777)
    assert segment(frame, Offload(), cuts=(5, 500)) == [frame]


TCP_FRAME = super_frame(ETHERNET / IPV4 / TCP_LAST, noise(3000), 1000).frame
TCP6_FRAME = super_frame(ETHERNET / IPV6 / TCP_LAST, noise(3000), 1000).frame
BAD_OFFLOAD, GSO_UNSUPPORTED = 7, 8


@pytest.mark.parametrize(
    ("frame", "offload", "reason"),
    [
        pytest.param(noise(60), Offload(flags=1, csum_start=59), BAD_OFFLOAD, id="checksum-behind-the-end"),
        pytest.param(noise(60), Offload(flags=1, csum_start=65535, csum_offset=65535), BAD_OFFLOAD, id="far-behind"),
        pytest.param(b"", Offload(flags=1), BAD_OFFLOAD, id="empty-frame"),
        pytest.param(
            TCP_FRAME,
            Offload(flags=1, gso_type=GSO_TCPV4, csum_start=34, csum_offset=16),
            BAD_OFFLOAD,
            id="segments-of-nothing",
        ),
        pytest.param(
            TCP_FRAME,
            Offload(flags=1, gso_type=GSO_TCPV4, gso_size=9, csum_start=35, csum_offset=16),
            BAD_OFFLOAD,
            id="checksum-elsewhere",
        ),
        pytest.param(
            TCP_FRAME,
            Offload(flags=1, gso_type=GSO_TCPV4, gso_size=9, csum_start=34, csum_offset=6),
            BAD_OFFLOAD,
            id="checksum-of-another-protocol",
        ),
        pytest.param(TCP6_FRAME, Offload(gso_type=GSO_TCPV4, gso_size=1000), BAD_OFFLOAD, id="ipv6-as-ipv4"),
        pytest.param(TCP_FRAME, Offload(gso_type=GSO_TCPV6, gso_size=1000), BAD_OFFLOAD, id="ipv4-as-ipv6"),
        pytest.param(TCP_FRAME[:54], Offload(gso_type=GSO_TCPV4, gso_size=1000), BAD_OFFLOAD, id="header-cut-off"),
        pytest.param(TCP_FRAME, Offload(gso_type=GSO_UDP_L4, gso_size=1000), GSO_UNSUPPORTED, id="tcp-as-udp"),
        pytest.param(TCP_FRAME, Offload(gso_type=GSO_UDP, gso_size=1000), GSO_UNSUPPORTED, id="udp-fragmentation"),
        pytest.param(TCP_FRAME, Offload(gso_type=77, gso_size=1000), GSO_UNSUPPORTED, id="unknown-kind"),
        pytest.param(noise(2000), Offload(gso_type=GSO_TCPV4, gso_size=1000), GSO_UNSUPPORTED, id="no-ip"),
        pytest.param(
            bytes(ETHERNET / IPv6() / IPv6ExtHdrFragment() / TCP_LAST / Raw(noise(2000))),
            Offload(gso_type=GSO_TCPV6, gso_size=1000),
            GSO_UNSUPPORTED,
            id="ipv6-fragment",
        ),
        pytest.param(
            bytes(ETHERNET / IP(flags="MF") / TCP_LAST / Raw(noise(2000))),
            Offload(gso_type=GSO_TCPV4, gso_size=1000),
            GSO_UNSUPPORTED,
            id="ipv4-fragment",
        ),
        pytest.param(
            bytes(ETHERNET / IPV6 / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 250)]) / TCP_LAST),
            Offload(gso_type=GSO_TCPV6, gso_size=1000),
            GSO_UNSUPPORTED,
            id="headers-too-long",
        ),
        pytest.param(
            super_frame(ETHERNET / IPV4 / TCP_CWR, noise(60000), 1000).frame,
            Offload(gso_type=GSO_TCPV4, gso_size=1),
            GSO_UNSUPPORTED,
            id="too-many-segments",
        ),
    ],
)
def test_a_contradiction_is_a_drop_with_its_reason(frame: bytes, offload: Offload, reason: int) -> None:
    with pytest.raises(ValueError, match=rf"^drop reason {reason}$"):
        segment(frame, offload)
