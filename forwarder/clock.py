"""Time, replaceable: what waits or stamps asks a Clock, so that tests can turn it."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells wall-clock time and sleeps."""

    def now(self) -> float:
        """Returns seconds since the epoch, as `time.time` does."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns once `seconds` have passed on this clock."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Returns seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleeps on the running event loop."""
        await asyncio.sleep(max(0.0, seconds))
