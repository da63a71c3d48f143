"""Cancelling a coroutine each time it waits, to see what it leaves."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator


class _Counted(Awaitable[None]):
    """Drives a coroutine and cancels its task when it waits for the `number`-th time."""

    def __init__(self, work: Coroutine[object, object, object], number: int) -> None:
        self._work = work
        self._number = number
        self.cancelled = False

    def __await__(self) -> Generator[object, object, None]:
        task = asyncio.current_task()
        assert task is not None
        waits = 0
        step: Callable[[], object] = lambda: self._work.send(None)  # noqa: E731 - replaced at each wait
        while True:
            try:
                waited_for = step()
            except StopIteration:
                return
            waits += 1
            if waits == self._number:
                self.cancelled = True
                task.cancel()
            try:
                sent = yield waited_for
            except BaseException as error:
                thrown = error
                step = lambda thrown=thrown: self._work.throw(thrown)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda sent=sent: self._work.send(sent)  # type: ignore[misc]  # noqa: E731


async def cancelled_at_wait(work: Callable[[], Coroutine[object, object, object]], number: int) -> bool:
    """Runs `work` and cancels it when it waits for the `number`-th time, counted from 1.

    Returns False when it ended without waiting so often; then it was not disturbed. Whatever
    else than the cancellation comes out of it is raised.
    """
    counted = _Counted(work(), number)

    async def drive() -> None:
        await counted

    try:
        await asyncio.ensure_future(drive())
    except asyncio.CancelledError:
        if not counted.cancelled:
            raise
    return counted.cancelled
