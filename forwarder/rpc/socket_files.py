"""The files of one call on a unix socket, and who keeps them."""

import time
from contextlib import AbstractContextManager
from typing import Final
from urllib.parse import unquote

from forwarder.errors import InvalidRequest
from forwarder.rpc.descriptors import PassThrough, inode_of
from forwarder.rpc.files import KeptFiles
from forwarder.rpc.transport import Transport

LATE_S: Final = 2.0
"""How long a file is waited for: only what grpcfd had no room for (64 at once) comes after its message."""


class SocketFiles:
    """Descriptors over a transport that passes open files."""

    def __init__(self, transport: Transport, files: KeptFiles, connection_id: str, deadline: float | None) -> None:
        """For the call about one connection; `deadline` is when that ends, by `time.monotonic`."""
        self._transport = transport
        self._files = files
        self._connection_id = connection_id
        self._deadline = deadline
        self._by_number = PassThrough()

    async def received(self, url: str) -> str:
        """Turns `inode://` into the `file://` URL of the file that came for it.

        A URL for which none came stays: the file may be found by its numbers. A peer that has never
        sent any is not waited for.
        """
        url = await self._by_number.received(url)
        inode = inode_of(url)
        if inode is None:
            return url
        path = self._files.path(self._connection_id, inode)
        if path is None:
            table = self._transport.received
            descriptor = table.get(inode)
            if descriptor is None and table.any_came:
                left_s = LATE_S if self._deadline is None else self._deadline - time.monotonic()
                descriptor = await table.wait(inode, max(0.0, min(LATE_S, left_s)))
            if descriptor is None:
                return url
            path = self._files.keep(self._connection_id, inode, descriptor)
        return f"file://{path}"

    def sent(self, url: str) -> str:
        """Has the file of a `file://` URL sent before anything that is written from now on."""
        if not url.startswith("file://"):
            return url
        path = unquote(url.removeprefix("file://"))
        try:
            device, inode = self._transport.enqueue(path)
        except (OSError, ValueError) as error:
            reason = error.strerror or "" if isinstance(error, OSError) else str(error)
            raise InvalidRequest(f"inodeURL {url!r}: cannot look at {path}", detail=reason) from error
        return f"inode://{device}/{inode}"

    def kept(self) -> AbstractContextManager[None]:
        """Keeps what `received` has named, or will name, for as long as the context lasts."""
        return self._files.using(self._connection_id)
