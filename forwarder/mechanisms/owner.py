"""Whose a link is: the forwarder that made it, by a number that every link of it carries as its group.

The alias of a link says for which connection it is, and is NSM's. The group says who made it, so
that a forwarder finds what it made in an earlier life, and takes nothing of another's for its own.
While an owner lives each of its processes holds an abstract socket, so that others can tell what a
dead one left. Such names are a network namespace's: owners in different ones do not see each other.

Source: unix(7); proc_pid_net(5) for the list of sockets.
"""

import hashlib
import os
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

    def hold(self) -> None:
        """Lets others in the calling thread's network namespace know that this process lives, until `close`.

        Does nothing the second time.
        """
        if self._held is None and self.group:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                sock.bind(f"\0{_stem(self.group)}{os.urandom(8).hex()}")
            except OSError:
                sock.close()
                raise
            self._held = sock

    def alone(self) -> bool:
        """Says whether no other process lives under this name, in the calling thread's network namespace.

        What another one has made looks like what an earlier one left.
        """
        held = self._held.getsockname() if self._held is not None else b""
        return bool(self.group) and all(each == held for each in _living(self.group))

    def may_adopt(self, group: int) -> bool:
        """Says whether a link of this group is nobody else's: ours, not marked, or a dead owner's.

        Asks in the calling thread's network namespace.
        """
        return group in (0, self.group) or not _living(group)

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


def _stem(group: int) -> str:
    return f"vwire/owner/{group}/"


def _living(group: int) -> list[bytes]:
    """Returns the names that the processes of an owner hold."""
    stem = f"@{_stem(group)}".encode()
    with open("/proc/thread-self/net/unix", "rb") as sockets:
        names = [line.rsplit(None, 1)[-1] for line in sockets if stem in line]
    return [b"\0" + name[1:] for name in names if name.startswith(stem)]
