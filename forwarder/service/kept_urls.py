"""URLs of sockets that came as open files, kept for as long as somebody needs them.

A manager sends the file of an endpoint's socket with every answer, each time as another
descriptor. Here one socket has one descriptor, and so one URL, as long as anybody keeps it: a
connection whose next hop has the same URL as before has not moved.
"""

import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from forwarder.errors import InvalidRequest
from forwarder.rpc import held_socket

_OPEN_FILE: Final = re.compile(r"unix:(?://)?(/proc/[^/]+/fd/[0-9]+)")

_Socket = tuple[int, int]
"""Device and inode number of its file."""


@dataclass(slots=True)
class _Kept:
    url: str
    stack: ExitStack
    users: int = 0


class KeptUrls:
    """Counts who keeps which socket."""

    def __init__(self) -> None:
        self._kept: dict[_Socket, _Kept] = {}

    def __len__(self) -> int:
        """Returns how many descriptors are held."""
        return len(self._kept)

    def keep(self, url: str) -> tuple[str, Callable[[], None]]:
        """Returns a URL for the same server that is good until the returned function is called, once.

        A URL that names no open file stays as it is. Raises InvalidRequest when the file is not there.
        """
        match = _OPEN_FILE.fullmatch(url)
        if match is None:
            return url, _nothing
        try:
            found = os.stat(match[1])
        except OSError as error:
            raise InvalidRequest(f"address {url!r}: cannot look at it", detail=error.strerror or "") from error
        socket = found.st_dev, found.st_ino
        kept = self._kept.get(socket)
        if kept is None:
            stack = ExitStack()
            kept = self._kept[socket] = _Kept(stack.enter_context(held_socket(url)), stack)
        kept.users += 1
        return kept.url, partial(self._let_go, socket)

    def _let_go(self, socket: _Socket) -> None:
        kept = self._kept[socket]
        kept.users -= 1
        if not kept.users:
            del self._kept[socket]
            kept.stack.close()


def _nothing() -> None:
    """Ends nothing."""
