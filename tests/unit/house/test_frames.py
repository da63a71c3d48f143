"""The frame makers make what they say."""

from hypothesis import given
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from tests.support.frames import every_size, ip_packets, raw_frames, samples


@given(raw_frames(mtu=1500))
def test_a_raw_frame_is_within_the_wire_s_bounds(frame: bytes) -> None:
    tags = 0
    while frame[12 + 4 * tags : 14 + 4 * tags] in {b"\x81\x00", b"\x88\xa8"} and tags < 2:
        tags += 1
    assert 60 <= len(frame) <= 1500 + 14 + 4 * tags


@given(ip_packets(mtu=1280))
def test_a_packet_parses_as_what_it_says_and_fits(packet: bytes) -> None:
    assert len(packet) <= 1280
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    assert (parsed.len if parsed.version == 4 else parsed.plen + 40) == len(packet)


def test_every_size_has_every_size_once() -> None:
    assert [len(frame) for frame in every_size(1500)] == list(range(60, 1515))


def test_the_samples_fit() -> None:
    assert all(60 <= len(frame) <= 1518 for frame in samples())
