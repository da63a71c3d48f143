"""Says when a file appears: for who waits until somebody listens on a socket file."""

import asyncio
import logging
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from forwarder.dataplane.lean_event import LeanEvent
from forwarder.dataplane.linux import add_inotify_watch, open_inotify, remove_inotify_watch

log = logging.getLogger(__name__)

# linux/inotify.h
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_ONLYDIR: Final = 0x01000000
_EVENT: Final = struct.Struct("=iIII")
_RECEIVE_BYTES: Final = 64 << 10


class FileWatch:
    """One inotify descriptor for all files that are waited for; open only while there are some."""

    def __init__(self) -> None:
        """Does nothing yet."""
        self._fd = -1
        self._waiting: dict[int, dict[LeanEvent, str]] = {}
        """By watched directory: who waits, and for which name in it."""

    @contextmanager
    def appearing(self, path: str) -> Iterator[LeanEvent]:
        """Lends an event that is set when `path`, or what is missing above it, appears from now on.

        Where the kernel grants no watch, it never is.
        """
        appeared = LeanEvent()
        directory, name = _nearest(path)
        try:
            self._open()
            number = add_inotify_watch(
                self._fd, directory, IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR
            )
        except OSError as error:
            log.debug("cannot watch %s: %s", directory, error)
            number = -1
        waiting = self._waiting.setdefault(number, {})
        waiting[appeared] = name
        try:
            yield appeared
        finally:
            del waiting[appeared]
            if not waiting:
                self._forget(number)

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = open_inotify()
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _forget(self, number: int) -> None:
        """Ends the watch of a directory; the last one closes the descriptor."""
        del self._waiting[number]
        if number >= 0:
            with suppress(OSError):  # the kernel has ended it already, if the directory has gone
                remove_inotify_watch(self._fd, number)
        if not self._waiting and self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            # The kernel lets go of it only after tens of milliseconds: not on our thread.
            threading.Thread(target=os.close, args=(self._fd,), name="vwire-inotify").start()
            self._fd = -1

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _RECEIVE_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            self._tell(number, mask, os.fsdecode(data[at : at + length].split(b"\0", 1)[0]))
            at += length

    def _tell(self, number: int, mask: int, name: str) -> None:
        """Wakes who waits for this name; all of them, when the directory is not what it was or events were lost."""
        for watched, waiting in self._waiting.items():
            for appeared, wanted in waiting.items():
                if number < 0 or (watched == number and (name == wanted or not mask & (IN_CREATE | IN_MOVED_TO))):
                    appeared.set()


def _nearest(path: str) -> tuple[str, str]:
    """Returns the nearest directory above `path` that exists, and what of `path` comes next in it."""
    directory, name = os.path.split(os.path.abspath(path))
    while not os.path.isdir(directory):
        directory, name = os.path.split(directory)
    return directory, name
