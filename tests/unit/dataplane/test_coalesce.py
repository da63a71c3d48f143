"""Segments become a super-frame only if cutting that gives them back, byte by byte."""

from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from forwarder.dataplane.coalesce import coalesced
from forwarder.dataplane.offload import segment
from forwarder.dataplane.spec import Offload
from tests.support.frames import stretched
from tests.support.superframe import NEEDS_CSUM, super_frame

SIZE = 1448
ETHERNET = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
IPV4 = IP(src="10.1.2.3", dst="10.1.2.4", id=0xFFFD, flags="DF", tos=2)
IPV6 = IPv6(src="2001:db8::1", dst="2001:db8::2", tc=2, fl=5)
TCP_DATA = TCP(
    sport=4, dport=5, seq=0xFFFFFF00, ack=7, flags="EA", options=[("NOP", 0), ("NOP", 0), ("Timestamp", (1, 2))]
)
NETWORKS = {"ipv4": IPV4, "ipv6": IPV6}
LINKS = {"untagged": ETHERNET, "vlan": ETHERNET / Dot1Q(vlan=5, prio=3)}


def cut_again(sent: list[tuple[bytes, Offload, int]], *, ip_mode: bool = False) -> list[bytes]:
    """Returns the frames that come of what was sent."""
    return [one for frame, offload, _ in sent for one in segment(frame, offload, ip_mode=ip_mode)]


def counts(frames: list[bytes]) -> list[int]:
    """Returns how many frames each message stands for; all of them come of it again."""
    sent = coalesced(frames)
    assert cut_again(sent) == frames
    return [n for _, _, n in sent]


def data(
    at: int = 0,
    *,
    flags: str = "EA",
    length: int = SIZE,
    link: Packet = ETHERNET,
    ip: dict[str, object] | None = None,
    tcp: dict[str, object] | None = None,
) -> bytes:
    """Builds the segment that stands `at` segments into the stream; `ip` and `tcp` are fields that differ."""
    network, transport = IPV4.copy(), TCP_DATA.copy()
    network.id = (IPV4.id + at) & 0xFFFF
    transport.seq = (TCP_DATA.seq + at * SIZE) & 0xFFFFFFFF
    transport.flags = flags
    for layer, fields in ((network, ip), (transport, tcp)):
        for name, value in (fields or {}).items():
            setattr(layer, name, value)
    return bytes(link / network / transport / Raw(stretched(bytes([at]), length)))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("last", ["EA", "PEA", "FPEA"])
def test_a_stream_becomes_the_super_frame_it_was_cut_from(network: str, link: str, last: str) -> None:
    tcp = TCP_DATA.copy()
    tcp.flags = last
    packet = LINKS[link] / NETWORKS[network] / tcp
    made = super_frame(packet, stretched(b"payload", 60_000), SIZE)
    ((frame, offload, n),) = coalesced(made.segments)
    assert (frame, n) == (made.frame, len(made.segments))
    assert offload == Offload(
        flags=NEEDS_CSUM,
        gso_type=made.offload.gso_type,
        header_length=len(bytes(packet)),
        gso_size=SIZE,
        csum_start=made.offload.csum_start,
        csum_offset=made.offload.csum_offset,
    )
    assert segment(frame, offload) == made.segments


@pytest.mark.parametrize("network", NETWORKS)
def test_packets_without_ethernet_header_coalesce_too(network: str) -> None:
    made = super_frame(NETWORKS[network] / TCP_DATA, stretched(b"payload", 20_001), SIZE)
    sent = coalesced(made.segments, ip_mode=True)
    assert [n for _, _, n in sent] == [len(made.segments)]
    assert sent[0][0] == made.frame
    assert cut_again(sent, ip_mode=True) == made.segments


def test_a_super_frame_is_no_longer_than_a_kernel_segments() -> None:
    frames = [data(at) for at in range(100)]
    sent = coalesced(frames)
    assert cut_again(sent) == frames
    assert [n for _, _, n in sent] == [45, 45, 10]
    assert all(len(frame) <= 65535 for frame, _, _ in sent)


def test_a_short_segment_ends_a_super_frame() -> None:
    frames = [data(), data(1, length=100), data(2), data(3)]
    assert counts(frames) == [2, 2]


@pytest.mark.parametrize("flags", ["PEA", "FEA"])
def test_push_and_fin_end_a_super_frame(flags: str) -> None:
    assert counts([data(), data(1, flags=flags), data(2), data(3)]) == [2, 2]
    assert counts([data(flags=flags), data(1)]) == [1, 1]


ALONE: dict[str, Callable[[], bytes]] = {
    "a gap": lambda: data(2, ip={"id": 0xFFFE}),
    "a repetition": lambda: data(tcp={"seq": 0xFFFFFF00}),
    "another identification": lambda: data(1, ip={"id": 0xFFFD}),
    "another type of service": lambda: data(1, ip={"tos": 3}),
    "another time to live": lambda: data(1, ip={"ttl": 63}),
    "may be fragmented": lambda: data(1, ip={"flags": 0}),
    "a fragment": lambda: data(1, ip={"frag": 8}),
    "IPv4 options": lambda: data(1, ip={"options": [IPOption_Router_Alert()]}),
    "another source": lambda: data(1, ip={"src": "10.1.2.5"}),
    "another port": lambda: data(1, tcp={"sport": 3}),
    "another acknowledgement": lambda: data(1, tcp={"ack": 8}),
    "another window": lambda: data(1, tcp={"window": 1}),
    "other timestamps": lambda: data(1, tcp={"options": [("NOP", 0), ("NOP", 0), ("Timestamp", (1, 3))]}),
    "no options": lambda: data(1, tcp={"options": []}),
    "another ECN echo": lambda: data(1, flags="A"),
    "congestion window reduced": lambda: data(1, flags="CEA"),
    "urgent": lambda: data(1, flags="UEA"),
    "a reset": lambda: data(1, flags="REA"),
    "a synchronisation": lambda: data(1, flags="SEA"),
    "no acknowledgement": lambda: data(1, flags="E"),
    "nothing in it": lambda: data(1, length=0),
    "a wrong TCP checksum": lambda: broken(data(1), -1),
    "a wrong IPv4 checksum": lambda: broken(data(1), 24),
    "padding behind the packet": lambda: data(1) + bytes(4),
    "cut off": lambda: data(1)[:-1],
    "another address": lambda: broken(data(1), 0),
    "a tag": lambda: data(1, link=ETHERNET / Dot1Q(vlan=5)),
}


def broken(frame: bytes, at: int) -> bytes:
    """Flips a bit of one byte."""
    whole = bytearray(frame)
    whole[at] ^= 1
    return bytes(whole)


@pytest.mark.parametrize("what", ALONE)
def test_what_cutting_would_not_give_back_goes_alone(what: str) -> None:
    one = ALONE[what]()
    assert counts([data(), one]) == [1, 1]
    assert counts([data(), data(1), one, data(), data(1)]) == [2, 1, 2]


def test_a_segment_longer_than_the_first_goes_alone() -> None:
    assert counts([data(length=100), data(1, tcp={"seq": 0xFFFFFF00 + 100})]) == [1, 1]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ETHERNET / IPV4 / UDP(sport=1, dport=2), id="udp"),
        pytest.param(ETHERNET / Dot1AD(vlan=7) / Dot1Q(vlan=5) / IPV4 / TCP_DATA, id="two-tags"),
        pytest.param(ETHERNET / IPV6 / IPv6ExtHdrHopByHop() / TCP_DATA, id="hop-by-hop"),
        pytest.param(
            ETHERNET / IPV6 / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]) / TCP_DATA, id="destination"
        ),
    ],
)
def test_what_is_not_plain_tcp_goes_alone(packet: Packet) -> None:
    frames = super_frame(packet, stretched(b"payload", 3 * SIZE), SIZE).segments
    assert counts(frames) == [1, 1, 1]


def test_noise_goes_alone() -> None:
    frames = [b"", b"\x45", bytes(60), bytes(ETHERNET / ARP()), data()[:13], data()[:50]]
    assert [n for _, _, n in coalesced(frames)] == [1] * len(frames)


def test_more_frames_than_a_burst_are_refused() -> None:
    with pytest.raises(ValueError, match="129 frames"):
        coalesced([bytes(60)] * 129)
