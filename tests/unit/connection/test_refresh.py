"""When a refresh is due, and that it is repeated until it succeeds."""

import asyncio

import pytest

from forwarder.api.connection_pb2 import Connection, Path
from forwarder.connection.refresh import RETRY_SECONDS, keep_fresh, refresh_delay_seconds
from forwarder.errors import NextHopError
from tests.support.clock import TurnedClock
from tests.support.connections import connection, path, timestamp

NOW = 1000.0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (path("nsc:1", expires=1600), 200.0),
        (path("nsc:1", "fwd:2", "nse:3", expires=1600), 120.0),
        (path("nsc:1", "fwd:2", "nse:3", index=1, expires=1600), 160.0),
        (path("nsc:1", "fwd:2", index=1, expires=1600), 180.0),
        (path("nsc:1", "fwd:2", expires=1000), 0.0),
        (path("nsc:1", "fwd:2", expires=900), 0.0),
        (path("nsc:1", "fwd:2"), 0.0),
        (Path(), 0.0),
    ],
)
def test_the_delay_follows_position_and_lifetime(given: Path, seconds: float) -> None:
    assert refresh_delay_seconds(given, NOW) == pytest.approx(seconds)


def test_the_shortest_lifetime_counts_and_a_missing_one_means_at_once() -> None:
    given = path("nsc:1", "fwd:2", expires=1600)
    given.path_segments[1].expires.CopyFrom(timestamp(1100.5))
    assert refresh_delay_seconds(given, NOW) == pytest.approx(20.1)
    given.path_segments[0].ClearField("expires")
    assert refresh_delay_seconds(given, NOW) == 0


async def test_a_failed_refresh_is_repeated_every_200_ms_until_it_succeeds() -> None:
    clock = TurnedClock(NOW)
    current = connection("nsc:1", "nse:2", expires=1100)
    calls: list[float] = []

    async def request() -> Connection:
        calls.append(clock.now() - NOW)
        if len(calls) in (1, 2, 3):
            raise NextHopError("no", status="UNAVAILABLE")
        current.CopyFrom(connection("nsc:1", "nse:2", expires=clock.now() + 100))
        return current

    task = asyncio.create_task(keep_fresh(clock=clock, connection=lambda: current, request=request))
    await clock.advance(45)
    task.cancel()
    await asyncio.wait([task])
    first = 20.0
    assert calls == pytest.approx(
        [first, first + RETRY_SECONDS, first + 2 * RETRY_SECONDS, first + 3 * RETRY_SECONDS, 40.6]
    )
