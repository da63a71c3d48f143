"""Tells when names leave directories."""

from collections.abc import Callable
from pathlib import Path

from forwarder.errors import NetlinkError
from forwarder.inotify import IN_DELETE, IN_MOVED_FROM, IN_Q_OVERFLOW, Inotify


class DirectoryWatch:
    """Calls `left` with the path of each entry that is deleted from, or moved out of, a watched directory.

    When the kernel had to leave events out, `left` is called with None: anything may be gone.
    """

    def __init__(self, left: Callable[[Path | None], object]) -> None:
        """Opens nothing before the first directory."""
        self._left = left
        self._inotify = Inotify(self._tell)
        self._directories: dict[int, Path] = {}

    def add(self, directory: Path) -> None:
        """Watches a directory from now on; does nothing when it is watched.

        Raises NetlinkError when it is not there or too many are watched already.
        """
        if directory in self._directories.values():
            return
        try:
            watch = self._inotify.add(directory, IN_DELETE | IN_MOVED_FROM)
        except OSError as error:
            raise NetlinkError(f"cannot watch {directory}", errno=error.errno or 0) from error
        self._directories[watch] = directory

    def close(self) -> None:
        """Watches nothing any more; does nothing the second time."""
        self._directories.clear()
        self._inotify.close()

    def _tell(self, watch: int, mask: int, name: str) -> None:
        if mask & IN_Q_OVERFLOW:
            self._left(None)
        elif mask & (IN_DELETE | IN_MOVED_FROM) and watch in self._directories:
            self._left(self._directories[watch] / name)
