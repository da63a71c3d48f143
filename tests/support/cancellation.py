"""Cancelling a coroutine each time it waits, to see what it leaves."""

import asyncio
from collections.abc import Awaitable, Callable


async def cancelled_at_wait(work: Callable[[], Awaitable[object]], number: int) -> bool:
    """Runs `work` and cancels it when it waits for the `number`-th time, counted from 1.

    Returns False when it ended before that; then it was not disturbed.
    """
    task = asyncio.ensure_future(work())
    for _ in range(number):
        # one turn of the loop takes the task to its first wait, and each later one past a wait
        # that is over; while it waits for something slow, the turns do not count
        waited_for = getattr(task, "_fut_waiter", None)
        while not task.done() and getattr(task, "_fut_waiter", None) is waited_for:
            await asyncio.sleep(0)
        if task.done():
            await task
            return False
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return True
