"""Ends a connection that its caller no longer refreshes.

The caller's path segment says until when its token is valid; a timer fires early enough before
that for a Close to run in the time the last Request was given.
Source: sdk's timeout server.
"""

import asyncio
from collections.abc import Callable

from forwarder.api.connection_pb2 import Connection, PathSegment
from forwarder.clock import Clock
from forwarder.connection.path import Position
from forwarder.errors import InvalidRequest


def expires_at(segment: PathSegment) -> float | None:
    """Returns the segment's expiry in seconds since the epoch, None if it has none."""
    if not segment.HasField("expires"):
        return None
    return segment.expires.seconds + segment.expires.nanos / 1e9


def close_at(connection: Connection, position: Position, request_seconds: float) -> float:
    """Returns when the connection has to be closed unless it is refreshed.

    `request_seconds` is what the Request had left when it arrived, 0 without a deadline.
    Raises InvalidRequest when the caller's segment has no expiry: such a connection would never end.
    """
    if position.own_index == 0:
        raise InvalidRequest("the path has no segment before ours, so the connection would never expire")
    index = position.own_index - 1
    segment = connection.path.path_segments[index]
    at = expires_at(segment)
    if at is None:
        raise InvalidRequest(
            f"path segment {index} ({segment.name}) has no expiry,"
            " neither in the path nor as a token in the call's metadata"
        )
    return at - request_seconds


class ExpiryTimer:
    """Calls `expired` once, at the time last given to `arm`.

    `expired` only starts the Close: that takes its turn after Requests that came before it, so it
    has to ask `due` again.
    """

    def __init__(self, clock: Clock, expired: Callable[[], None]) -> None:
        self._clock = clock
        self._expired = expired
        self._task: asyncio.Task[None] | None = None
        self.at: float | None = None
        """When it fires, in seconds since the epoch; None while it is not armed."""

    def arm(self, at: float) -> None:
        """Sets the time, replacing an earlier one."""
        self._stop()
        self.at = at
        self._task = asyncio.create_task(self._run(at), name="expiry")

    @property
    def due(self) -> bool:
        """Says whether its time has come: false again when a refresh armed it anew."""
        return self.at is not None and self._clock.now() >= self.at

    async def aclose(self) -> None:
        """Disarms."""
        self.at = None
        task = self._stop()
        if task is not None:
            await asyncio.wait([task])

    def _stop(self) -> asyncio.Task[None] | None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    async def _run(self, at: float) -> None:
        await self._clock.sleep(at - self._clock.now())
        self._expired()
