"""The open files that a peer has sent over one connection, until somebody asks for them.

A message names a file by its device and inode number; the file itself came before the message, or
with it. Who asks gets a duplicate, so one file may serve several RPCs. What came is given up
again after a while: nobody can tell to which RPC it belongs, peers also send what nobody asked
for, and an open file keeps a whole network namespace alive.

No I/O but on descriptors, no clock: `now` is an argument.

Source: edwarnicke/grpcfd, whose table keeps everything until the connection ends; its users make a
new connection for every Request, while ours are shared and last.
"""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from forwarder.errors import RemoteProtocolError

Inode = tuple[int, int]
"""(st_dev, st_ino)."""

KEPT_S: Final = 15.0
"""How long a file waits for its message: the time that the programs of the mesh give an RPC."""
MOST: Final = 4096
"""Files held at once for one connection; a peer that sends more is cut off."""


@dataclass(slots=True)
class _File:
    descriptor: int
    arrived: float


class DescriptorTable:
    """Files by their numbers. Owns what it is given, until `close`."""

    def __init__(self) -> None:
        self._files: dict[Inode, _File] = {}
        """In order of arrival."""
        self._waiting: set[asyncio.Future[None]] = set()
        self.any_came = False
        """Whether the peer has ever sent one: who has not may not know how."""

    def __len__(self) -> int:
        """Returns how many files wait."""
        return len(self._files)

    def add(self, descriptors: Iterable[int], now: float) -> None:
        """Takes over descriptors that arrived; of a file that is there already, the one there stays.

        Raises RemoteProtocolError when there are too many; all are the table's nevertheless.
        """
        for descriptor in descriptors:
            self.any_came = True
            status = os.fstat(descriptor)
            inode = status.st_dev, status.st_ino
            before = self._files.pop(inode, None)
            if before is not None:
                os.close(descriptor)
                descriptor = before.descriptor  # noqa: PLW2901
            self._files[inode] = _File(descriptor, now)
        self._wake()
        if len(self._files) > MOST:
            raise RemoteProtocolError(f"the peer sent more than {MOST} open files that nobody asked for")

    def get(self, inode: Inode) -> int | None:
        """Returns a duplicate of a file, for the caller to close; None if it is not there."""
        found = self._files.get(inode)
        return None if found is None else os.dup(found.descriptor)

    async def wait(self, inode: Inode, timeout_s: float) -> int | None:
        """Waits for a file; returns as `get` does when it is there, the time is over, or the connection."""
        try:
            async with asyncio.timeout(timeout_s):
                while inode not in self._files:
                    arrival = asyncio.get_running_loop().create_future()
                    self._waiting.add(arrival)
                    try:
                        await arrival
                    finally:
                        self._waiting.discard(arrival)
        except (TimeoutError, ConnectionError):
            return None
        return self.get(inode)

    def expire(self, now: float) -> float | None:
        """Closes what has waited long enough; returns when to call again, None when nothing is left."""
        for inode, file in list(self._files.items()):
            if file.arrived + KEPT_S > now:
                return file.arrived + KEPT_S
            os.close(file.descriptor)
            del self._files[inode]
        return None

    def close(self) -> None:
        """Closes everything; nobody waits any more."""
        for file in self._files.values():
            os.close(file.descriptor)
        self._files.clear()
        for arrival in self._waiting:
            if not arrival.done():
                arrival.set_exception(ConnectionError("the connection has ended"))

    def _wake(self) -> None:
        for arrival in self._waiting:
            if not arrival.done():
                arrival.set_result(None)
