"""Says when a file appears: for who waits until somebody listens on a socket file."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from forwarder.dataplane.lean_event import LeanEvent
from forwarder.inotify import IN_CREATE, IN_DELETE_SELF, IN_MOVE_SELF, IN_MOVED_TO, Inotify

log = logging.getLogger(__name__)


class FileWatch:
    """One inotify descriptor for all files that are waited for; open only while there are some."""

    def __init__(self) -> None:
        """Does nothing yet."""
        self._inotify = Inotify(self._tell)
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
            number = self._inotify.add(directory, IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF)
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

    def _forget(self, number: int) -> None:
        """Ends the watch of a directory; the last one closes the descriptor."""
        del self._waiting[number]
        if number >= 0:
            self._inotify.remove(number)
        if not self._waiting:
            self._inotify.close()

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
