"""Hears from the kernel what happens in directories, on the event loop.

Source: inotify(7), linux/inotify.h.
"""

import asyncio
import ctypes
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000
IN_ONLYDIR: Final = 0x1000000
_EVENT: Final = struct.Struct("=iIII")
_READ_BYTES: Final = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One inotify descriptor, opened with the first watch.

    `heard(watch, mask, name)` is called for every event, with the number that `add` returned; with -1
    and IN_Q_OVERFLOW when the kernel had to leave events out.
    """

    def __init__(self, heard: Callable[[int, int, str], object]) -> None:
        """Opens nothing yet."""
        self._heard = heard
        self._fd = -1

    def add(self, directory: str | os.PathLike[str], mask: int) -> int:
        """Watches a directory, which may be watched already, and returns the watch's number. Raises OSError."""
        if self._fd < 0:
            self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        return _checked(
            _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask | IN_ONLYDIR), os.fspath(directory)
        )

    def remove(self, watch: int) -> None:
        """Ends a watch; does nothing when the kernel has ended it already, because the directory has gone."""
        with suppress(OSError):
            _checked(_libc.inotify_rm_watch(self._fd, watch), f"watch {watch}")

    def close(self) -> None:
        """Watches nothing any more, until the next `add`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            # The kernel lets go of it only after tens of milliseconds: not on our thread.
            threading.Thread(target=os.close, args=(fd,), name="vwire-inotify").start()

    def _read(self) -> None:
        try:
            events = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            self._heard(watch, mask, os.fsdecode(events[at : at + length].split(b"\0", 1)[0]))
            at += length


def _checked(result: int, what: str) -> int:
    """Returns what a call returned; raises OSError when that is an error."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
