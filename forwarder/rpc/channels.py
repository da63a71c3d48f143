"""Channels that are kept open: everybody who calls the same server shares one.

Connecting costs as much as three calls, and whoever watches a connection holds a stream to its
next hop: with a channel for each, a thousand connections would be a thousand sockets.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

from forwarder.api.x509 import Identity
from forwarder.rpc.channel import DIAL_TIMEOUT_S, Channel, Credentials, dial_with
from forwarder.rpc.descriptors import OPEN_FILE, held_socket
from forwarder.rpc.files import KeptFiles
from forwarder.rpc.tls import TlsIdentity

IDLE_S: Final = 30.0
"""How long a channel that nobody uses stays open."""


class _Open:
    """A channel and who uses it."""

    def __init__(self, channel: Channel, stack: AsyncExitStack) -> None:
        self.channel = channel
        self.stack = stack
        self.users = 0
        self.idle: asyncio.TimerHandle | None = None


class _Attempt:
    """A connection being made, and how many wait for it."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.waiting = 0


class Channels:
    """One channel per URL, dialled when somebody asks and closed when nobody has for a while.

    An async context manager; leave it after every lender.
    """

    def __init__(
        self,
        *,
        timeout_s: float = DIAL_TIMEOUT_S,
        credentials: Credentials | None = None,
        identity: Identity | None = None,
        idle_s: float = IDLE_S,
    ) -> None:
        """Does nothing yet. `timeout_s`, `credentials` and `identity` are `dial`'s."""
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._identity = identity
        self._tls = TlsIdentity(identity) if identity is not None else None
        self._files = KeptFiles()
        self._idle_s = idle_s
        self._open: dict[str, _Open] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __len__(self) -> int:
        """Returns how many channels are open and may be lent again."""
        return len(self._open)

    def kept(self, connection_id: str) -> AbstractContextManager[None]:
        """Keeps the files that answers about a connection brought, for as long as the context lasts.

        Their names, `/proc/<pid>/fd/<n>`, stay the same in that time; without, they are good
        until the RPC has returned.
        """
        return self._files.using(connection_id)

    @asynccontextmanager
    async def lend(self, url: str) -> AsyncIterator[Channel]:
        """Lends a channel to the server at `url`, connected as far as anybody knows.

        One that lost its connection is not lent again: a new one is dialled, by the first who asks
        and for all who ask meanwhile. Who makes an RPC also ends it: leaving the context does not.
        Raises what `dial` raises.
        """
        key = _key(url)
        while (entry := self._connected(key)) is None:
            await self._dialled(key, url)
        entry.users += 1
        if entry.idle is not None:
            entry.idle.cancel()
            entry.idle = None
        try:
            yield entry.channel
        finally:
            entry.users -= 1
            if not entry.users:
                self._rest(key, entry)

    async def aclose(self) -> None:
        """Closes every channel; RPCs that still run are cancelled."""
        for key, entry in list(self._open.items()):
            entry.users = 0
            self._retire(key, entry)
        while self._ending:
            await asyncio.wait(self._ending)

    def _connected(self, key: str) -> _Open | None:
        entry = self._open.get(key)
        if entry is not None and not (entry.channel.connected and self._vouched_for(entry.channel)):
            self._retire(key, entry)
            return None
        return entry

    def _vouched_for(self, channel: Channel) -> bool:
        """Says whether a channel's tokens will be good for long: they end with the certificates it began with."""
        if channel.tls_peer is None or self._identity is None:
            return True
        return channel.tls_peer.shown == self._identity.svid and time.time() < channel.fresh_until

    async def _dialled(self, key: str, url: str) -> None:
        """Waits for a new channel. The attempt ends when nobody waits for it any more."""
        attempt = self._attempts.get(key)
        if attempt is None:
            attempt = self._attempts[key] = _Attempt(asyncio.create_task(self._dial(key, url), name=f"dial {url}"))
        attempt.waiting += 1
        try:
            await asyncio.shield(attempt.task)
        finally:
            attempt.waiting -= 1
            if not attempt.waiting:
                del self._attempts[key]
                if not attempt.task.done():
                    attempt.task.cancel()
                    self._end(attempt.task)

    async def _dial(self, key: str, url: str) -> None:
        async with AsyncExitStack() as stack:
            with held_socket(url) as held:  # who gave it may be gone before the others who wait
                dialling = dial_with(
                    held, timeout_s=self._timeout_s, credentials=self._credentials, tls=self._tls, files=self._files
                )
                channel = await stack.enter_async_context(dialling)
            entry = self._open[key] = _Open(channel, stack.pop_all())
            self._rest(key, entry)

    def _rest(self, key: str, entry: _Open) -> None:
        """Has a channel that nobody uses closed: later, or now if it is not to be lent again."""
        if self._open.get(key) is entry:
            entry.idle = asyncio.get_running_loop().call_later(self._idle_s, self._retire, key, entry)
        else:
            self._close(entry)

    def _retire(self, key: str, entry: _Open) -> None:
        """Lends a channel no more; its last user closes it."""
        del self._open[key]
        if not entry.users:
            self._close(entry)

    def _close(self, entry: _Open) -> None:
        if entry.idle is not None:
            entry.idle.cancel()
            entry.idle = None
        self._end(asyncio.get_running_loop().create_task(entry.stack.aclose(), name="close a channel"))

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Sees to it that `aclose` waits for a task that is ending."""
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _key(url: str) -> str:
    """Returns what two URLs of the same server have in common.

    An open file's number is used again for another file; what identifies its server is the file.
    """
    match = OPEN_FILE.fullmatch(url)
    if match is None:
        return url
    try:
        found = os.stat(match["path"])
    except OSError:
        return url
    return f"inode://{found.st_dev}/{found.st_ino}"
