"""Work inside a network namespace, on threads made for it.

A thread that enters a namespace never comes back: it does its piece of work and ends, so no
other work can ever run in the wrong place. What it opened inside (sockets) stays inside.
The event loop's thread never changes namespace.

Source: setns(2).
"""

import asyncio
import ctypes
import errno
import threading
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from forwarder.errors import NetlinkError

CLONE_NEWNET: Final = 0x40000000

_T = TypeVar("_T")

_libc = ctypes.CDLL(None, use_errno=True)


class Held(Protocol):
    """What holds a namespace open: a Netns."""

    label: str

    def fileno(self) -> int:
        """Returns the descriptor."""
        ...


def enter(netns: Held | int) -> None:
    """Moves the calling thread into a namespace, given by who holds it or by descriptor.

    Only for a thread made for this work. Raises NetlinkError.
    """
    fd, label = (netns, f"of descriptor {netns}") if isinstance(netns, int) else (netns.fileno(), netns.label)
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        hint = "this needs CAP_SYS_ADMIN" if number == errno.EPERM else ""
        raise NetlinkError(f"cannot enter network namespace {label}", errno=number, hint=hint)


def call_in(netns: Held | int | None, function: Callable[[], _T]) -> _T:
    """Runs `function` inside `netns` (None: our own) on a new thread and returns its result.

    Blocks the caller; for tests and for code that is on a thread of its own already.
    """
    return _Job(netns, function).run()


async def run_in(
    netns: Held | int | None, function: Callable[[], _T], *, discard: Callable[[_T], object] | None = None
) -> _T:
    """Runs `function` inside `netns` (None: our own) on a new thread; the loop stays free.

    When the caller is cancelled, the thread is waited for, so that nothing goes on behind the
    caller's back; its result is then given to `discard`, which closes what it may hold.
    `function` must therefore end by itself, soon.
    """
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not finished.done():
            finished.set_result(None)

    job = _Job(netns, function, lambda: loop.call_soon_threadsafe(wake))
    job.start()
    cancelled: asyncio.CancelledError | None = None
    while not finished.done():
        try:
            await asyncio.shield(finished)
        except asyncio.CancelledError as error:
            cancelled = error
    job.join()
    if cancelled is None:
        return job.result()
    try:
        result = job.result()
    except Exception:  # noqa: S110 - the cancellation is what the caller gets
        pass
    else:
        if discard is not None:
            discard(result)
    raise cancelled


class _Job(Generic[_T]):
    """One piece of work on a thread of its own."""

    def __init__(
        self, netns: Held | int | None, function: Callable[[], _T], on_end: Callable[[], object] | None = None
    ) -> None:
        self._netns = netns
        self._function = function
        self._on_end = on_end
        self._value: list[_T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="netns", daemon=True)

    def _work(self) -> None:
        try:
            if self._netns is not None:
                enter(self._netns)
            self._value.append(self._function())
        except BaseException as error:
            self._error = error
        finally:
            if self._on_end is not None:
                self._on_end()

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def result(self) -> _T:
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # no cycle through the traceback
        return self._value[0]

    def run(self) -> _T:
        self.start()
        self.join()
        return self.result()
