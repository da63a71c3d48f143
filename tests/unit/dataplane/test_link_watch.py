"""What rtnetlink says of links is understood, and nothing else is."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from forwarder.dataplane.link_watch import LinkState, parse_link_events

UP_RUNNING = 0x1 | 0x40


def message(kind: int, ifindex: int, flags: int, attributes: bytes = b"") -> bytes:
    body = struct.pack("=BxHiII", 0, 1, ifindex, flags, 0) + attributes
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_a_link_is_up_when_its_other_end_is_too() -> None:
    assert parse_link_events(message(16, 7, UP_RUNNING)) == [(7, LinkState(up=True))]
    assert parse_link_events(message(16, 7, 0x1)) == [(7, LinkState(up=False))]
    assert parse_link_events(message(16, 7, 0x40)) == [(7, LinkState(up=False))]


def test_a_link_that_moved_is_told_from_one_that_was_deleted() -> None:
    moved = struct.pack("=HHi", 8, 45, 3)
    ((_, gone),) = parse_link_events(message(17, 7, 0, struct.pack("=HH4s", 5, 3, b"x\0\0\0") + moved))
    assert "moved" in gone.gone
    ((_, gone),) = parse_link_events(message(17, 7, 0))
    assert "deleted" in gone.gone


def test_several_messages_come_in_order_and_others_are_skipped() -> None:
    messages = message(16, 1, UP_RUNNING) + message(20, 2, 0) + message(16, 3, 0)
    assert [ifindex for ifindex, _ in parse_link_events(messages)] == [1, 3]


@given(st.binary(max_size=200), st.integers(0, 60))
def test_anything_is_understood_or_left_out(noise: bytes, cut: int) -> None:
    parse_link_events(noise)
    parse_link_events(message(17, 1, 0, noise))
    parse_link_events((message(16, 1, 0) + message(17, 2, 0, noise))[: -cut or None])
