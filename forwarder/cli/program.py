"""What every program does around its work: logging, signals, phases, and how it ends.

A program ends by cancellation: SIGTERM, SIGINT, SIGHUP or SIGQUIT cancels its main task once, and whatever it
holds unwinds. A second signal cancels the unwinding.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from forwarder import config
from forwarder.api.redact import redact
from forwarder.errors import ConfigError, ForwarderError
from forwarder.observability import log as logs

EXIT_FAILED = 1
EXIT_MISUSED = 2

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program, as it ends NSM's."""

_log = logging.getLogger("vwire")


class Phases:
    """Tells start-up as numbered phases with their durations."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._number = 0

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Wraps one phase; a phase that fails is told as such and the failure goes on."""
        self._number += 1
        number, began = self._number, self._clock()
        try:
            yield
        except BaseException:
            _log.info("phase %d: %s: failed after %s", number, what, self._since(began))
            raise
        _log.info("phase %d: %s (%s)", number, what, self._since(began))

    def ready(self, what: str) -> None:
        """Tells that start-up is over."""
        _log.info("%s, %s after the start", what, self._since(self._began))

    def _since(self, began: float) -> str:
        return f"{1000 * (self._clock() - began):.0f} ms"


def start(program: str, settings: config.Settings) -> None:
    """Sets logging up and logs the settings in force and those without effect, once."""
    for number in ENDING:
        signal.signal(number, _end_before_the_loop)
    logs.set_up(settings.log_level)
    values = config.effective(settings)
    _log.info("vwire %s: %s", program, " ".join(f"{name}={value}" for name, value in values.items()))
    by_reason: dict[str, list[str]] = {}
    for name, reason in config.ignored(program, os.environ).items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        _log.warning("without effect: %s: %s", ", ".join(names), reason)


def _end_before_the_loop(_number: int, _frame: FrameType | None) -> None:
    """Ends the process while it has no event loop yet; what it holds unwinds."""
    sys.exit(0)


def run(program: str, main: Coroutine[Any, Any, None]) -> None:
    """Runs a program until it is done or told to end, then exits the process if it failed.

    The exit status is 0 also when a signal ended it: that is how programs are meant to end.
    """
    # What was imported stays: a full collection need not go through it each time (8 ms).
    gc.freeze()
    try:
        asyncio.run(_until_signalled(main))
    except asyncio.CancelledError:
        return
    except Exception as error:  # the last place anything can be caught
        fail(program, error)
    finally:
        # We are ending already; what is left to undo must not be cut short.
        for number in (*ENDING, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


async def _until_signalled(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(main, name="main")

    def end(number: signal.Signals) -> None:
        _log.info("ending on %s", number.name)
        task.cancel()

    for number in ENDING:
        on_signal(number, end, number)
    on_signal(signal.SIGUSR1, logs.raise_level)
    on_signal(signal.SIGUSR2, logs.restore_level)
    with _woken_by_signals():
        await task


def on_signal(number: signal.Signals, call: Callable[..., None], *arguments: object) -> None:
    """Has the running loop call something for each signal of one kind, from now on; nothing once it is closed.

    A loop's own handlers are gone when it closes, and signals kill the process from then on: one that
    comes so late would change the exit status of an end that went well.
    """
    loop = asyncio.get_running_loop()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *arguments)

    signal.signal(number, handle)


@contextmanager
def _woken_by_signals() -> Iterator[None]:
    """Wakes the loop also for signals that the kernel gave to another thread: handlers run in this one."""
    loop = asyncio.get_running_loop()
    ours, kernels = socket.socketpair()
    with ours, kernels:
        ours.setblocking(False)
        kernels.setblocking(False)
        before = signal.set_wakeup_fd(kernels.fileno(), warn_on_full_buffer=False)
        loop.add_reader(ours, ours.recv, 4096)
        try:
            yield
        finally:
            loop.remove_reader(ours)
            signal.set_wakeup_fd(before)


@contextmanager
def errors_told(program: str) -> Iterator[None]:
    """Ends the process with one clear line for every error raised inside."""
    try:
        yield
    except ForwarderError as error:
        fail(program, error)


def fail(program: str, error: BaseException) -> NoReturn:
    """Ends the process: one line for what went wrong, a traceback only when debugging or for a bug."""
    cause = first_cause(error)
    expected = isinstance(cause, ForwarderError | OSError)
    if not expected or logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("vwire").error("vwire %s failed", program, exc_info=error)
    text = str(cause) if expected else f"{type(cause).__name__}: {cause}"
    print(f"vwire {program}: error: {redact(text)}", file=sys.stderr, flush=True)
    sys.exit(EXIT_MISUSED if isinstance(cause, ConfigError) else EXIT_FAILED)


def first_cause(error: BaseException) -> BaseException:
    """Returns the error that says most: out of a group, the first of ours, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(each) for each in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, ForwarderError)), causes[0])
