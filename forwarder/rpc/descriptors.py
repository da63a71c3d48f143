"""Files that travel beside a message: what `inodeURL` means on the wire and in this process.

Within a process a mechanism names its network namespace by a file, `file:///proc/...`. On the
wire the value is `inode://<device>/<inode>`, both decimal, of that file; a receiver either has
been sent the file itself over the same unix socket (`socket_files`) or looks for the namespace by
its number.

Source: Network Service Mesh sdk, `common/mechanisms/sendfd` and `recvfd`.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final, Protocol
from urllib.parse import quote, unquote

from forwarder.api.connection_pb2 import Mechanism
from forwarder.api.mechanisms import View
from forwarder.errors import InvalidRequest
from forwarder.rpc.address import Address

_OWN_PROCESS: Final = re.compile(r"/+proc/+(self|thread-self)(/|$)")
OPEN_FILE: Final = re.compile(r"unix://(?P<path>/proc/(?:self|[0-9]{1,10})/fd/[0-9]{1,10})", re.ASCII)
_INODE: Final = re.compile(r"inode://([0-9]{1,20})/([0-9]{1,20})", re.ASCII)


class Descriptors(Protocol):
    """The files of one call."""

    async def received(self, url: str) -> str:
        """Turns a URL from the peer into one that this process can open.

        Raises InvalidRequest if it cannot stand for a file of the peer's.
        """
        ...

    def sent(self, url: str) -> str:
        """Turns a `file://` URL of this process into the `inode://` one for the peer.

        Other URLs stay. Raises InvalidRequest if there is no such file.
        """
        ...

    def kept(self) -> AbstractContextManager[None]:
        """Keeps the URLs that `received` returns good for as long as the context lasts.

        They are good for the call anyway, and for as long as anybody keeps those of the same
        connection; in that time the same file has the same URL.
        """
        ...


class PassThrough:
    """Descriptors of a transport that carries none: the receiver finds files by their numbers."""

    async def received(self, url: str) -> str:
        """Refuses what names a file of whoever reads it; leaves the rest as it is."""
        scheme, separator, rest = url.partition("://")
        if not separator:
            return url
        if scheme == "file" and _names_reader(unquote(rest)):
            raise InvalidRequest(
                f"inodeURL {url!r}: names the network namespace of the process that reads it, not the sender's",
                hint="send inode://<device>/<inode>",
            )
        if scheme == "inode" and not _INODE.fullmatch(url):
            raise InvalidRequest(f"inodeURL {url!r}: not inode://<device>/<inode> in decimal")
        return url

    def sent(self, url: str) -> str:
        """Looks the file's device and inode number up, following links."""
        if not url.startswith("file://"):
            return url
        path = unquote(url.removeprefix("file://"))
        try:
            found = os.stat(path)  # the kernel follows magic links
        except (OSError, ValueError) as error:
            reason = error.strerror or "" if isinstance(error, OSError) else str(error)
            raise InvalidRequest(f"inodeURL {url!r}: cannot look at {path}", detail=reason) from error
        return f"inode://{found.st_dev}/{found.st_ino}"

    def kept(self) -> AbstractContextManager[None]:
        """Keeps nothing: there is nothing that could go."""
        return nullcontext()


def inode_of(url: str) -> tuple[int, int] | None:
    """Returns device and inode number of an `inode://` URL, None for any other."""
    match = _INODE.fullmatch(url)
    return None if match is None else (int(match[1]), int(match[2]))


def _names_reader(path: str) -> bool:
    """Says whether `path` means another file for each process that reads it."""
    return _OWN_PROCESS.match(os.path.normpath("/" + path)) is not None


async def receive(descriptors: Descriptors, mechanisms: Iterable[Mechanism]) -> dict[str, str]:
    """Rewrites the `inodeURL` of mechanisms from a peer, in place; returns new URL to old."""
    mapping: dict[str, str] = {}
    for view in map(View, mechanisms):
        if old := view.inode_url:
            new = await descriptors.received(old)
            if new != old:
                mapping[new] = old
                view.inode_url = new
    return mapping


def send(descriptors: Descriptors, mechanisms: Iterable[Mechanism]) -> dict[str, str]:
    """Rewrites the `inodeURL` of mechanisms for a peer, in place; returns new URL to old."""
    mapping: dict[str, str] = {}
    for view in map(View, mechanisms):
        if old := view.inode_url:
            new = descriptors.sent(old)
            if new != old:
                mapping[new] = old
                view.inode_url = new
    return mapping


def by_number(mechanism: Mechanism) -> None:
    """Rewrites, in place, the `inodeURL` of a mechanism for one who is only told of it, and not sent the file."""
    view = View(mechanism)
    if view.inode_url.startswith("file://"):
        with suppress(InvalidRequest):
            view.inode_url = PassThrough().sent(view.inode_url)


def restore(mapping: dict[str, str], mechanism: Mechanism) -> bool:
    """Puts back, in place, the URL that `receive` or `send` had replaced; says whether it had."""
    view = View(mechanism)
    if view.inode_url not in mapping:
        return False
    view.inode_url = mapping[view.inode_url]
    return True


def sent_socket(descriptors: Descriptors, url: str) -> str:
    """Turns the URL of a server into the one for a peer: the `inode://` of its socket file for a `unix://` one.

    Raises InvalidRequest if there is no such file.
    """
    address = Address.parse(url) if url.startswith("unix:") else None
    return url if address is None else descriptors.sent(f"file://{quote(address.path)}")


async def received_socket(descriptors: Descriptors, url: str) -> str:
    """Turns the URL of a server that came from a peer into one that `dial` takes here."""
    if not url.startswith("inode:"):
        return url
    return re.sub("^file://", "unix://", await descriptors.received(url))


@contextmanager
def held_socket(url: str) -> Iterator[str]:
    """Yields a URL for the same server that is good for as long as the context lasts.

    It is `url` itself, but for one that names an open file of somebody's, `unix:///proc/…/fd/…`:
    then a file of our own is opened, and closed on leaving. Raises InvalidRequest if that fails.
    """
    match = OPEN_FILE.fullmatch(url)
    if match is None:
        yield url
        return
    try:
        own = os.open(match["path"], os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidRequest(f"address {url!r}: cannot open {match['path']}", detail=error.strerror or "") from error
    try:
        yield f"unix:///proc/{os.getpid()}/fd/{own}"
    finally:
        os.close(own)
