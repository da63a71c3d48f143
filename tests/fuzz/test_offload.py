"""Invariant: whatever a frame and its offload say, finishing it reads and writes only what is there.

The sanitizer build sees every step outside. What comes out is within the bounds that were asked for.
"""

from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.dataplane.offload import segment
from forwarder.dataplane.spec import Offload

PIECES_MAX = 64
SEGMENTS_MAX = 8192

ETHERTYPES = [b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xa8", b"\x91\x00", b"\x08\x06"]
MACS = bytes(12)
TAGS = st.lists(
    st.tuples(st.sampled_from([b"\x81\x00", b"\x88\xa8"]), st.binary(min_size=2, max_size=2)).map(b"".join), max_size=4
).map(b"".join)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Draws packets that look right at first: version, header length, next header, then anything."""
    protocol = draw(st.sampled_from([6, 17, 132, 0, 43, 44, 51, 60, 255]))
    rest = draw(st.binary(max_size=400))
    if draw(st.booleans()):
        words = draw(st.sampled_from([0, 4, 5, 6, 15]))
        flags = draw(st.sampled_from([b"\0\0", b"\x40\0", b"\x20\0", b"\0\x01"]))
        return bytes([0x40 | words, 0, 0, 0, 0, 0]) + flags + bytes([64, protocol]) + rest
    return b"\x60\0\0\0\0\0" + bytes([protocol, 64]) + draw(st.binary(min_size=32, max_size=32)) + rest


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Draws Ethernet frames, tagged up to four times, around such packets; and plain noise."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    return MACS + draw(TAGS) + draw(st.sampled_from(ETHERTYPES)) + draw(packets())


NUMBERS = st.one_of(st.integers(0, 120), st.integers(0, 0xFFFF))
OFFLOADS = st.builds(
    Offload,
    flags=st.one_of(st.sampled_from([0, 1]), st.integers(0, 255)),
    gso_type=st.one_of(st.sampled_from([0, 1, 4, 5, 0x81, 0x84]), st.integers(0, 255)),
    header_length=NUMBERS,
    gso_size=NUMBERS,
    csum_start=NUMBERS,
    csum_offset=st.one_of(st.sampled_from([6, 8, 16]), NUMBERS),
)


@given(frame=frames() | packets(), offload=OFFLOADS, ip_mode=st.booleans(), data=st.data())
def test_any_frame_with_any_offload_is_finished_or_refused(
    frame: bytes, offload: Offload, ip_mode: bool, data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(frame)), max_size=PIECES_MAX - 1))
    try:
        out = segment(frame, offload, ip_mode=ip_mode, cuts=cuts)
    except ValueError:
        assert offload.gso_type & 0x7F or offload.flags & 1, "a complete frame was refused"
        return
    assert 1 <= len(out) <= SEGMENTS_MAX
    assert out == segment(frame, offload, ip_mode=ip_mode), "pieces make a difference"
    if len(out) == 1:
        assert len(out[0]) == len(frame)
        return
    header = len(out[0]) - offload.gso_size
    assert all(len(one) == header + offload.gso_size for one in out[:-1])
    assert b"".join(one[header:] for one in out) == frame[header:]


@given(frame=st.binary(max_size=2000), start=st.integers(0, 2100), offset=st.integers(0, 40), data=st.data())
@example(frame=bytes(60), start=58, offset=0, data=None)
def test_a_completed_checksum_verifies(frame: bytes, start: int, offset: int, data: st.DataObject | None) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(frame)), max_size=20)) if data else []
    offload = Offload(flags=1, csum_start=start, csum_offset=offset)
    if start + offset + 2 > len(frame):
        return
    (out,) = segment(frame, offload, ip_mode=True, cuts=cuts)
    at = start + offset
    assert out[:at] == frame[:at]
    assert out[at + 2 :] == frame[at + 2 :]
    if offset % 2 == 0 and offset != 8:  # at 8 it may have been SCTP
        # What the sender left in the field is the pseudo-header's sum: with it all words add up to all ones.
        pseudo = int.from_bytes(frame[at : at + 2], "big")
        assert (_sum(out[start:]) + pseudo) % 0xFFFF == 0


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    return sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
