"""An incoming call as its handler sees it."""

import time

from forwarder.rpc import Call


def test_a_call_without_deadline_has_no_end() -> None:
    assert Call().remaining_s() is None
    assert Call.internal().remaining_s() is None


def test_what_remains_is_never_negative() -> None:
    assert Call(deadline=time.monotonic() - 5).remaining_s() == 0
    remaining_s = Call.internal(timeout_s=1000).remaining_s()
    assert remaining_s is not None
    assert 0 < remaining_s <= 1000


def test_metadata_keeps_every_value_of_a_key_in_order() -> None:
    call = Call(metadata=(("a", "1"), ("b", "2"), ("a", "3")))
    assert call.values("a") == ("1", "3")
    assert call.values("c") == ()


def test_an_event_of_our_own_has_no_peer() -> None:
    assert Call.internal().peer == ""
