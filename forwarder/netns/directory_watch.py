"""Tells when names leave directories.

Source: inotify(7).
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from forwarder.errors import NetlinkError

_IN_MOVED_FROM: Final = 0x40
_IN_DELETE: Final = 0x200
_IN_Q_OVERFLOW: Final = 0x4000
_IN_ONLYDIR: Final = 0x1000000
_EVENT: Final = struct.Struct("=iIII")
_READ_BYTES: Final = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class DirectoryWatch:
    """Calls `left` with the path of each entry that is deleted from, or moved out of, a watched directory.

    When the kernel had to leave events out, `left` is called with None: anything may be gone.
    """

    def __init__(self, left: Callable[[Path | None], object]) -> None:
        """Opens nothing before the first directory."""
        self._left = left
        self._fd = -1
        self._directories: dict[int, Path] = {}

    def add(self, directory: Path) -> None:
        """Watches a directory from now on; does nothing when it is watched.

        Raises NetlinkError when it is not there or too many are watched already.
        """
        if directory in self._directories.values():
            return
        what = f"cannot watch {directory}"
        if self._fd < 0:
            fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if fd < 0:
                raise NetlinkError(what, errno=ctypes.get_errno())
            self._fd = fd
            asyncio.get_running_loop().add_reader(fd, self._read)
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_DELETE | _IN_MOVED_FROM | _IN_ONLYDIR)
        if watch < 0:
            raise NetlinkError(what, errno=ctypes.get_errno())
        self._directories[watch] = directory

    def close(self) -> None:
        """Watches nothing any more; does nothing the second time."""
        fd, self._fd = self._fd, -1
        self._directories.clear()
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def _read(self) -> None:
        try:
            events = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        at = 0
        while at < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            name = os.fsdecode(events[at : at + length].rstrip(b"\0"))
            at += length
            if mask & _IN_Q_OVERFLOW:
                self._left(None)
            elif mask & (_IN_DELETE | _IN_MOVED_FROM) and watch in self._directories:
                self._left(self._directories[watch] / name)
