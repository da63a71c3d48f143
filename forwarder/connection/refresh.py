"""When an originating client repeats its Request, so that no token on the path expires.

Only programs that start a path refresh; a hop in the middle passes Requests on as they come.
Source: sdk's refresh client.
"""

import logging
from collections.abc import Awaitable, Callable

from forwarder.api.connection_pb2 import Connection, Path
from forwarder.clock import Clock
from forwarder.connection.expiry import expires_at
from forwarder.errors import ForwarderError

RETRY_SECONDS = 0.2
"""How long after a failed refresh the next one is tried."""

_log = logging.getLogger(__name__)


def refresh_delay_seconds(path: Path, now: float) -> float:
    """Returns how long to wait before the next refresh; 0 means at once.

    The shortest remaining lifetime of all segments counts: a third of it when the path has one
    segment, otherwise a fifth plus up to another fifth by position, so that outer hops come first.
    """
    segments = path.path_segments
    times = [expires_at(segment) for segment in segments]
    remaining = min((at - now for at in times if at is not None), default=0.0)
    if None in times or remaining <= 0:
        return 0.0
    if len(segments) == 1:
        return remaining / 3
    return remaining * (0.2 + 0.2 * path.index / len(segments))


async def keep_fresh(
    *, clock: Clock, connection: Callable[[], Connection], request: Callable[[], Awaitable[object]]
) -> None:
    """Calls `request` whenever `connection()`, the last answer, is due; runs until cancelled.

    A failed call is logged and repeated every RETRY_SECONDS.
    """
    while True:
        delay = refresh_delay_seconds(connection().path, clock.now())
        # An answer that is due already (no expiry on some segment) must not spin.
        await clock.sleep(max(delay, RETRY_SECONDS))
        while True:
            try:
                await request()
                break
            except (TimeoutError, ForwarderError, OSError) as error:
                _log.warning("refresh failed, next try in %.1f s: %s", RETRY_SECONDS, error)
                await clock.sleep(RETRY_SECONDS)
