"""Owns the tasks that work for connections beside their Requests."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self

_log = logging.getLogger(__name__)


class Background:
    """A program's tasks; leaving its context cancels and awaits those that still run.

    A task that fails is logged: it must not take the program down with it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Does nothing; tasks come with `start`."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes."""
        await self.aclose()

    async def aclose(self) -> None:
        """Cancels every task and waits for it."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Runs `work` until it ends or the program does."""
        task = asyncio.create_task(self._logged(work, name), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @asynccontextmanager
    async def running(self, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
        """Runs `work` for at most as long as the context lasts."""
        task = self.start(work, name)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _logged(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except Exception:
            _log.exception("%s failed", name)
