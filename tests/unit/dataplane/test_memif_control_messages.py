"""memif control messages: every field where memif.h puts it, and nothing believed about their form."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.dataplane.memif_messages import (
    Ack,
    AddRegion,
    AddRing,
    Connect,
    Connected,
    Disconnect,
    Hello,
    Init,
    decode,
    encode,
    printable,
)
from forwarder.errors import RemoteProtocolError

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, 2**64 - 1)
names = st.binary(max_size=31).filter(lambda name: 0 not in name)

messages = st.one_of(
    st.just(Ack()),
    st.builds(
        Hello,
        name=names,
        min_version=u16,
        max_version=u16,
        max_region=u16,
        max_to_client_ring=u16,
        max_to_server_ring=u16,
        max_log2_ring_size=u8,
    ),
    st.builds(
        Init,
        version=u16,
        interface_id=u32,
        mode=u8,
        secret=st.binary(min_size=24, max_size=24),
        name=names,
    ),
    st.builds(AddRegion, index=u16, size=u64),
    st.builds(
        AddRing,
        to_server=st.booleans(),
        index=u16,
        region=u16,
        offset=u32,
        log2_ring_size=u8,
        private_hdr_size=u16,
    ),
    st.builds(Connect, interface=names),
    st.builds(Connected, interface=names),
    st.builds(Disconnect, code=u32, reason=st.binary(max_size=95).filter(lambda reason: 0 not in reason)),
)


@given(messages)
def test_every_message_survives_encoding(message):
    data = encode(message)
    assert len(data) == 128
    assert decode(data) == message


@given(st.binary(min_size=128, max_size=128))
def test_any_128_bytes_are_a_message_or_refused(data):
    (kind,) = struct.unpack_from("<H", data)
    if 1 <= kind <= 8:
        decode(data)
    else:
        with pytest.raises(RemoteProtocolError):
            decode(data)


@pytest.mark.parametrize("size", [0, 1, 2, 127, 129, 256])
def test_another_size_is_refused(size):
    with pytest.raises(RemoteProtocolError):
        decode(bytes([1]) + bytes(size - 1) if size else b"")


def place(kind: int, *fields: tuple[int, bytes]) -> bytes:
    data = bytearray(128)
    data[0:2] = kind.to_bytes(2, "little")
    for offset, value in fields:
        data[offset : offset + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Ack(), place(1)),
        (
            Hello(
                name=b"peer",
                min_version=0x0200,
                max_version=0x0201,
                max_region=0x1122,
                max_to_client_ring=0x3344,
                max_to_server_ring=0x5566,
                max_log2_ring_size=14,
            ),
            place(
                2,
                (2, b"peer"),
                (34, b"\x00\x02"),
                (36, b"\x01\x02"),
                (38, b"\x22\x11"),
                (40, b"\x44\x33"),
                (42, b"\x66\x55"),
                (44, b"\x0e"),
            ),
        ),
        (
            Init(interface_id=0x01020304, mode=1, secret=b"s" * 24, name=b"app"),
            place(3, (2, b"\x00\x02"), (4, b"\x04\x03\x02\x01"), (8, b"\x01"), (9, b"s" * 24), (33, b"app")),
        ),
        (
            AddRegion(index=3, size=0x0102030405060708),
            place(4, (2, b"\x03\x00"), (4, bytes.fromhex("0807060504030201"))),
        ),
        (
            AddRing(to_server=True, index=1, region=2, offset=16512, log2_ring_size=10, private_hdr_size=5),
            place(
                5,
                (2, b"\x01\x00"),
                (4, b"\x01\x00"),
                (6, b"\x02\x00"),
                (8, b"\x80\x40\x00\x00"),
                (12, b"\x0a"),
                (13, b"\x05\x00"),
            ),
        ),
        (
            AddRing(to_server=False, index=0, region=0, offset=0, log2_ring_size=1),
            place(5, (12, b"\x01")),
        ),
        (Connect(interface=b"memif0/0"), place(6, (2, b"memif0/0"))),
        (Connected(interface=b"net_memif0"), place(7, (2, b"net_memif0"))),
        (Disconnect(code=7, reason=b"bye"), place(8, (2, b"\x07\x00\x00\x00"), (6, b"bye"))),
    ],
)
def test_fields_stand_where_the_header_says(message, data):
    assert encode(message) == data
    assert decode(data) == message


def test_names_are_cut_to_leave_room_for_the_terminator():
    assert decode(encode(Connect(interface=b"x" * 40))) == Connect(interface=b"x" * 31)
    assert decode(encode(Disconnect(reason=b"y" * 200))) == Disconnect(reason=b"y" * 95)


def test_a_name_without_terminator_ends_at_31_bytes():
    assert decode(place(6, (2, b"z" * 126))) == Connect(interface=b"z" * 31)


def test_names_are_escaped_for_display():
    assert printable(b"a\x1b[2J\n\\\xff") == r"a\x1b[2J\x0a\x5c\xff"


def test_the_secret_is_not_shown():
    assert "hush" not in repr(Init(interface_id=0, mode=0, secret=b"hush".ljust(24, b"\0"), name=b""))
