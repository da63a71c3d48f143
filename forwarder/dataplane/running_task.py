"""A task that runs for as long as a context lasts."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager


@asynccontextmanager
async def running_task(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """Runs `work` until the context is left, then cancels it; raises what it raised before that."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
