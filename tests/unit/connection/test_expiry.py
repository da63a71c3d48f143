"""A connection ends when its caller's token does, less the time a Close needs."""

import pytest

from forwarder.connection.expiry import ExpiryTimer, close_at, expires_at
from forwarder.connection.path import advance
from forwarder.errors import InvalidRequest
from tests.support.clock import TurnedClock
from tests.support.connections import connection, path

NOW = 1000.0


@pytest.mark.parametrize(("request_seconds", "at"), [(0.0, 1600.5), (15.0, 1585.5)])
def test_the_timer_leaves_time_for_the_close(request_seconds: float, at: float) -> None:
    given = connection("nsc:1", "mgr:2", index=1, expires=1600.5)
    position = advance(given, "fwd")
    assert close_at(given, position, request_seconds) == pytest.approx(at)


def test_without_an_expiry_of_the_caller_the_request_fails() -> None:
    given = connection("nsc:1", "mgr:2", index=1)
    position = advance(given, "fwd")
    with pytest.raises(InvalidRequest, match=r"path segment 1 \(mgr\) has no expiry"):
        close_at(given, position, 0)


def test_without_a_caller_the_request_fails() -> None:
    given = connection("fwd:1", expires=1600)
    position = advance(given, "fwd")
    with pytest.raises(InvalidRequest, match="no segment before ours"):
        close_at(given, position, 0)


def test_fractions_of_seconds_count() -> None:
    assert expires_at(path("nsc:1", expires=1600.25).path_segments[0]) == pytest.approx(1600.25)
    assert expires_at(path("nsc:1").path_segments[0]) is None


class Fired:
    def __init__(self) -> None:
        self.clock = TurnedClock(NOW)
        self.times: list[float] = []
        self.timer = ExpiryTimer(self.clock, self.expired)

    def expired(self) -> None:
        self.times.append(self.clock.now())


async def test_it_fires_once_at_its_time() -> None:
    fired = Fired()
    fired.timer.arm(NOW + 10)
    await fired.clock.advance(9.9)
    assert fired.times == []
    assert not fired.timer.due
    await fired.clock.advance(100)
    assert fired.times == [NOW + 10]


async def test_arming_again_replaces_the_time() -> None:
    fired = Fired()
    fired.timer.arm(NOW + 10)
    await fired.clock.advance(5)
    fired.timer.arm(NOW + 50)
    await fired.clock.advance(40)
    assert fired.times == []
    await fired.clock.advance(10)
    assert fired.times == [NOW + 50]


async def test_a_time_in_the_past_fires_at_once() -> None:
    fired = Fired()
    fired.timer.arm(NOW - 5)
    await fired.clock.advance(0)
    assert fired.times == [NOW]


async def test_a_closed_timer_does_not_fire_and_leaves_no_task() -> None:
    fired = Fired()
    fired.timer.arm(NOW + 10)
    await fired.clock.advance(1)
    await fired.timer.aclose()
    await fired.clock.advance(100)
    assert fired.times == []
    assert not fired.timer.due
