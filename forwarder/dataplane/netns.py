"""Work inside another network namespace, on a thread made for it.

A thread that has entered a namespace never comes back: it ends. What it opened stays
in that namespace. The thread that runs the event loop never enters one.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from forwarder.dataplane.linux import enter_netns

T = TypeVar("T")


async def call_in_netns(netns: int | None, work: Callable[[], T], *, undo: Callable[[T], object]) -> T:
    """Runs `work` on a new thread in the namespace that descriptor `netns` refers to; None for our own.

    Returns or raises what it did, and OSError if the namespace cannot be entered.
    Cancellation waits for the thread, which must be short, and gives the result to `undo`.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            if netns is not None:
                enter_netns(netns)
            result = work()
        except Exception as error:  # handed over to who waits
            loop.call_soon_threadsafe(outcome.set_exception, error)
        else:
            loop.call_soon_threadsafe(outcome.set_result, result)

    thread = threading.Thread(target=run, name="vwire-netns")
    thread.start()
    cancelled: asyncio.CancelledError | None = None
    while not outcome.done():
        try:
            await asyncio.wait([outcome])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    thread.join()
    if cancelled is None:
        return outcome.result()
    if outcome.exception() is None:
        undo(outcome.result())
    raise cancelled
