"""Lets clean-up finish although its caller is cancelled or out of time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def shielded(work: Coroutine[Any, Any, T], seconds: float | None) -> T:
    """Runs `work` to its end, for at most `seconds` (None: as long as it takes), and returns its result.

    A cancellation of the caller is delivered after that, not lost; it then takes the place of
    what `work` returned or raised. Raises TimeoutError when `seconds` were not enough.
    """

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await work

    task = asyncio.create_task(limited(), name="shielded")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    raise cancelled from (None if task.cancelled() else task.exception())


@asynccontextmanager
async def undone_on_failure(seconds: float | None) -> AsyncIterator[AsyncExitStack]:
    """Gives a stack that is unwound, shielded and within `seconds`, when the body fails.

    When the body succeeds, what is on the stack stays as it is: it says how to go back, not how to end.
    The body's failure is raised; a failure of undoing goes to the log.
    """
    undo = AsyncExitStack()
    try:
        yield undo
    except BaseException:
        try:
            await shielded(undo.aclose(), seconds)
        except Exception:
            _log.exception("going back was not complete")
        raise
    undo.pop_all()
