"""Whose a link is: the forwarder that made it, by a number that every link of it carries as its group.

The alias of a link says for which connection it is, and is NSM's. The group says who made it, so
that a forwarder finds what it made in an earlier life, and takes nothing of another's for its own.
While an owner lives it holds an abstract socket, so that others can tell what a dead one left.
"""

import errno
import hashlib
import socket
from types import TracebackType
from typing import Final, Self

_CHOSEN: Final = 1 << 30
"""Set in every number, so that none is one that somebody chose by hand."""


class Owner:
    """One forwarder, over all its lives. Without a name it marks nothing and owns nothing."""

    def __init__(self, name: str = "") -> None:
        """`name` is the same after a restart, and another for every forwarder of this network namespace."""
        self.name = name
        self.group = _group(name) if name else 0
        """The number; 0 without a name."""
        self._held: socket.socket | None = None

    def hold(self) -> bool:
        """Claims the name in the calling thread's network namespace; False while another process has it."""
        if self._held is None and self.group:
            self._held = _bound(self.group)
        return self._held is not None

    def may_adopt(self, group: int) -> bool:
        """Says whether a link of this group is nobody else's: ours, not marked, or a dead owner's.

        Asks in the calling thread's network namespace.
        """
        if group in (0, self.group):
            return True
        if (free := _bound(group)) is None:
            return False
        free.close()
        return True

    def close(self) -> None:
        """Gives the name back; does nothing the second time."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _group(name: str) -> int:
    return _CHOSEN | int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 2


def _bound(group: int) -> socket.socket | None:
    """Returns a socket that holds the group's name, None when another one does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        sock.bind(f"\0vwire/owner/{group}")
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return sock
