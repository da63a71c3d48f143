"""Where a memif socket is, and what ours are called.

An `inodeURL` names a network namespace, in which an abstract socket has its name, or a socket file.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Self, TypeVar

from forwarder.api import connection_pb2, constants
from forwarder.api.context import Side
from forwarder.api.mechanisms import Memif
from forwarder.errors import DataplaneError, InvalidRequest
from forwarder.mechanisms import inode_url
from forwarder.netns import Netns, run_in

T = TypeVar("T")

_SUN_PATH_BYTES: Final = 108
_OTHER_NAMES: Final = 3
"""How often another name is tried when somebody in the namespace holds ours."""


def check(mechanism: connection_pb2.Mechanism, side: Side) -> None:
    """Raises InvalidRequest when the namespace, or the endpoint's socket, is missing or malformed."""
    view = Memif.of(mechanism)
    if view is None:
        raise InvalidRequest(f"mechanism {mechanism.type} is not {constants.MEMIF}")
    if not view.inode_url:
        raise InvalidRequest(f"mechanism {constants.MEMIF}: parameter inodeURL is missing")
    target = inode_url.parse(view.inode_url)
    if side is Side.ENDPOINT and not view.socket_file and not isinstance(target, str):
        raise InvalidRequest(f"mechanism {constants.MEMIF}: parameter socketfile is missing")
    if side is Side.ENDPOINT and view.socket_file and not _fits(view.socket_file):
        raise InvalidRequest(
            f"mechanism {constants.MEMIF}: parameter socketfile {view.socket_file!r} is not a socket's name"
        )


class Place:
    """What an `inodeURL` leads to: a namespace, held open, or a socket file."""

    def __init__(self, *, netns: Netns | None = None, file: str = "") -> None:
        self.netns = netns
        self.file = file

    @classmethod
    async def find(cls, url: str) -> Self:
        """Opens what `url` leads to. Raises InvalidRequest or NetlinkError."""
        return await run_in(None, lambda: cls._find(url), discard=cls.close)

    @classmethod
    def _find(cls, url: str) -> Self:
        """May look through /proc, so not for the event loop's thread."""
        target = inode_url.parse(url)
        if isinstance(target, str) and _is_socket(target):
            return cls(file=target)
        return cls(netns=inode_url.open_netns(url))

    @property
    def is_file(self) -> bool:
        """Says whether it is a socket file."""
        return bool(self.file)

    @property
    def descriptor(self) -> int | None:
        """The namespace's, which stays ours; None for a file."""
        return None if self.netns is None else self.netns.fileno()

    def is_meant_by(self, view: Memif) -> bool:
        """Says whether the URL leads to the same place again."""
        if self.netns is None:
            return inode_url.parse(view.inode_url) == self.file
        return inode_url.means(view.inode_url, self.netns.identity)

    def tell(self, connection: connection_pb2.Connection, address: str) -> None:
        """Writes where we listen into the mechanism's parameters; a file is known already."""
        if not self.is_file:
            Memif(connection.mechanism).socket_file = address

    def addresses(self, directory: str, connection_id: str) -> Iterator[str]:
        """Yields where to listen, best first: the file, or a name of our own and some others.

        Anyone in the namespace can hold a name, and so can our own former socket for this
        connection, which is closed only after the new one works.
        """
        if self.is_file:
            yield self.file
            return
        yield _name(directory, connection_id)
        for _ in range(_OTHER_NAMES):
            yield _name(directory, f"{connection_id}.{secrets.token_hex(4)}")

    async def listen(self, directory: str, connection_id: str, at: Callable[[str], Awaitable[T]]) -> T:
        """Returns what `at` makes of the first address that nobody holds. Raises what it raises."""
        held: DataplaneError | None = None
        for address in self.addresses(directory, connection_id):
            try:
                return await at(address)
            except DataplaneError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                held = error
        assert held is not None
        raise held

    def target(self, view: Memif) -> str:
        """Returns where the endpoint listens. Raises InvalidRequest when that was not told."""
        address = self.file or view.socket_file
        if not address:
            raise InvalidRequest(
                f"mechanism {constants.MEMIF}: parameter socketfile is missing, and inodeURL is no socket file"
            )
        return address

    def close(self) -> None:
        """Lets go of the namespace; does nothing the second time."""
        if self.netns is not None:
            self.netns.close()


class MemifEnd:
    """One side of a vWire that is reached by a socket."""

    @property
    def fault(self) -> str:
        """Empty: applications come and go as they like, and break nothing."""
        return ""

    def __init__(self, side: Side, connection: connection_pb2.Connection, place: Place, address: str) -> None:
        self.interface = f"{constants.MEMIF}/{Memif(connection.mechanism).name or 'vwire'}"
        self.place = place
        self.address = address
        self._side = side
        self._payload = connection.payload

    def serves(self, connection: connection_pb2.Connection) -> bool:
        """Says whether socket, namespace and payload are still those that are asked for."""
        view = Memif.of(connection.mechanism)
        if view is None or connection.payload != self._payload:
            return False
        if self._side is Side.ENDPOINT and not self.place.is_file and view.socket_file != self.address:
            return False
        return self.place.is_meant_by(view)

    async def update(self, connection: connection_pb2.Connection) -> None:
        """Tells a caller that asks again where the socket is; there is nothing else to keep up."""
        if self._side is Side.CLIENT:
            self.place.tell(connection, self.address)


def default_directory() -> str:
    """Returns what the names of our sockets start with: TMPDIR, or /tmp."""
    return os.environ.get("TMPDIR", "") or "/tmp"  # noqa: S108 - a name, not a file


def _name(directory: str, part: str) -> str:
    """Returns an abstract socket's name with `part` in it, or a digest of it when it does not fit."""
    name = f"@{directory}/memif/{part}/memif.socket"
    if _fits(name):
        return name
    return f"@{directory}/memif/{hashlib.sha256(part.encode()).hexdigest()[:32]}/memif.socket"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _fits(name: str) -> bool:
    """Says whether a name can be that of a unix socket: `@` and printable ASCII, or an absolute path."""
    if not (name.startswith(("@", "/")) and len(name) > 1):
        return False
    if name.startswith("/"):
        return "\0" not in name and len(os.fsencode(name)) < _SUN_PATH_BYTES
    return name.isascii() and name.isprintable() and len(name) <= _SUN_PATH_BYTES
