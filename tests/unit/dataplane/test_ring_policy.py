"""A ring goes to who is busy with super-frames, stays while it pays, and is never one too many."""

from forwarder.dataplane.ring_policy import wants_ring


def test_a_port_busy_with_super_frames_gets_a_ring() -> None:
    assert wants_ring(1000, 1000, ring_rate=1000, has_ring=False, rings=0, max_rings=1)
    assert not wants_ring(999, 999, ring_rate=1000, has_ring=False, rings=0, max_rings=1)


def test_small_frames_stay_in_the_queue_however_many_they_are() -> None:
    assert not wants_ring(1e6, 0, ring_rate=1000, has_ring=False, rings=0, max_rings=1)
    assert not wants_ring(1e6, 1e5, ring_rate=1000, has_ring=False, rings=0, max_rings=1)
    assert not wants_ring(1e6, 1e5, ring_rate=1000, has_ring=True, rings=1, max_rings=1)


def test_a_ring_is_kept_at_a_lower_rate_than_it_is_given() -> None:
    assert wants_ring(400, 100, ring_rate=1000, has_ring=True, rings=1, max_rings=1)
    assert not wants_ring(400, 99, ring_rate=1000, has_ring=True, rings=1, max_rings=1)


def test_no_more_rings_than_allowed() -> None:
    assert not wants_ring(1e6, 1e6, ring_rate=1000, has_ring=False, rings=1, max_rings=1)
    assert not wants_ring(1e6, 1e6, ring_rate=1000, has_ring=False, rings=0, max_rings=0)


def test_a_rate_of_nothing_gives_every_port_one() -> None:
    assert wants_ring(5, 0, ring_rate=0, has_ring=False, rings=0, max_rings=1)
    assert wants_ring(5, 0, ring_rate=0, has_ring=True, rings=1, max_rings=1)
