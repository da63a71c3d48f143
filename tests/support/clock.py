"""A clock that stands still until a test turns it."""

import asyncio
import heapq
import itertools


class TurnedClock:
    """Time passes only in `advance`."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many sleep."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Lets `seconds` pass; who sleeps until then wakes in order and runs until it waits again."""
        await settle()
        until = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._now = at
            future.set_result(None)
            await settle()
        self._now = until
        await settle()


async def settle(turns: int = 50) -> None:
    """Lets every task run that can."""
    for _ in range(turns):
        await asyncio.sleep(0)
