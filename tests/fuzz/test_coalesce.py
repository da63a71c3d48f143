"""Invariant: what is coalesced and then cut is what was there, whatever the frames were.

The sanitizer build sees every step outside of them.
"""

import struct

from hypothesis import given
from hypothesis import strategies as st

from forwarder.dataplane.coalesce import coalesced
from forwarder.dataplane.offload import segment
from forwarder.dataplane.spec import Offload
from tests.fuzz.test_offload import frames, packets
from tests.support.superframe import GSO_TCPV4, GSO_TCPV6

MACS = bytes(range(12))


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draws the segments of a stream: Ethernet, perhaps a tag, IPv4 or IPv6, TCP."""
    ipv6 = draw(st.booleans())
    options = draw(st.integers(0, 10)) * 4
    flags = draw(st.sampled_from([0x10, 0x18, 0x11, 0x50, 0x90, 0x02, 0x30]))
    sequence, identification = draw(st.integers(0, 0xFFFFFFFF)), draw(st.integers(0, 0xFFFF))
    tcp = struct.pack("!HHIIBBHHH", 1, 2, sequence, 9, (5 + options // 4) << 4, flags, 501, 0, 0) + bytes(options)
    payload = draw(st.binary(min_size=1, max_size=40)) * draw(st.integers(1, 40))
    if ipv6:
        ip = struct.pack("!IHBB", 0x60000005, len(tcp) + len(payload), 6, 64) + bytes(range(32))
    else:
        ip = struct.pack("!BBHHHBBH", 0x45, 2, 20 + len(tcp) + len(payload), identification, 0x4000, 64, 6, 0)
        ip += bytes(range(8))
    tag = draw(st.sampled_from([b"", b"\x81\x00\x00\x05"]))
    head = MACS + tag + (b"\x86\xdd" if ipv6 else b"\x08\x00")
    offload = Offload(gso_type=GSO_TCPV6 if ipv6 else GSO_TCPV4, gso_size=draw(st.integers(8, 200)))
    return segment(head + ip + tcp + payload, offload)


def finished(frame: bytes) -> bytes:
    """Gives a damaged segment its checksums again, so that nothing but the damage speaks against it."""
    at = 18 if frame[12:14] == b"\x81\x00" else 14
    out = bytearray(frame)
    if frame[at : at + 1] == b"\x45" and len(frame) >= at + 40:
        out[at + 10 : at + 12] = bytes(2)
        (out[at + 10 : at + 12],) = [_checksum(bytes(out[at : at + 20]))]
        pseudo, l4 = bytes(out[at + 12 : at + 20]), at + 20
    elif frame[at : at + 1] == b"\x60" and len(frame) >= at + 60:
        pseudo, l4 = bytes(out[at + 8 : at + 40]), at + 40
    else:
        return frame
    out[l4 + 16 : l4 + 18] = bytes(2)
    out[l4 + 16 : l4 + 18] = _checksum(pseudo + struct.pack("!HH", 6, len(out) - l4) + bytes(out[l4:]))
    return bytes(out)


def _checksum(data: bytes) -> bytes:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def check(burst: list[bytes], *, ip_mode: bool = False) -> list[int]:
    """Coalesces and cuts again; returns how many frames each message stood for."""
    sent = coalesced(burst, ip_mode=ip_mode)
    again = []
    for frame, offload, n in sent:
        cut = segment(frame, offload, ip_mode=ip_mode)
        assert len(cut) == n
        again += cut
    assert again == burst
    return [n for _, _, n in sent]


@given(st.lists(st.one_of(frames(), packets()), max_size=20), st.booleans())
def test_any_frames_come_back(burst: list[bytes], ip_mode: bool) -> None:
    check(burst, ip_mode=ip_mode)


@given(st.lists(streams(), min_size=1, max_size=4), st.data())
def test_streams_that_were_tampered_with_come_back(made: list[list[bytes]], data: st.DataObject) -> None:
    burst = [frame for stream in made for frame in stream][:128]
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(burst) - 1))
        match data.draw(st.sampled_from(["damage", "repeat", "swap", "cut", "pad"])):
            case "damage":
                place = data.draw(st.integers(0, min(len(burst[at]), 140) - 1))
                frame = bytearray(burst[at])
                frame[place] ^= data.draw(st.integers(1, 255))
                burst[at] = finished(bytes(frame)) if data.draw(st.booleans()) else bytes(frame)
            case "repeat":
                burst = [*burst[: at + 1], *burst[at:]][:128]
            case "swap":
                burst[0], burst[at] = burst[at], burst[0]
            case "cut":
                burst[at] = burst[at][: data.draw(st.integers(0, len(burst[at])))] or b"\0"
            case "pad":
                burst[at] += bytes(data.draw(st.integers(1, 20)))
    check(burst)


@given(streams())
def test_a_stream_is_not_left_in_pieces(made: list[bytes]) -> None:
    at = 18 if made[0][12:14] == b"\x81\x00" else 14
    flags = made[0][at + (20 if made[0][at] == 0x45 else 40) + 13]
    counts = check(made[:128])
    if flags == 0x10 and len(made) <= 128:
        assert len(counts) == 1
