"""Channels that are kept open: everybody who calls the same server shares one.

Connecting costs as much as three calls, and whoever watches a connection holds a stream to its
next hop: with a channel for each, a thousand connections would be a thousand sockets.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

from forwarder.rpc.channel import DIAL_TIMEOUT_S, Channel, Credentials, dial

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
        self, *, timeout_s: float = DIAL_TIMEOUT_S, credentials: Credentials | None = None, idle_s: float = IDLE_S
    ) -> None:
        """Does nothing yet. `timeout_s` and `credentials` are `dial`'s."""
        self._timeout_s = timeout_s
        self._credentials = credentials
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

    @asynccontextmanager
    async def lend(self, url: str) -> AsyncIterator[Channel]:
        """Lends a channel to the server at `url`, connected as far as anybody knows.

        One that lost its connection is not lent again: a new one is dialled, by the first who asks
        and for all who ask meanwhile. Who makes an RPC also ends it: leaving the context does not.
        Raises what `dial` raises.
        """
        while (entry := self._connected(url)) is None:
            await self._dialled(url)
        entry.users += 1
        if entry.idle is not None:
            entry.idle.cancel()
            entry.idle = None
        try:
            yield entry.channel
        finally:
            entry.users -= 1
            if not entry.users:
                self._rest(url, entry)

    async def aclose(self) -> None:
        """Closes every channel; RPCs that still run are cancelled."""
        for url, entry in list(self._open.items()):
            entry.users = 0
            self._retire(url, entry)
        while self._ending:
            await asyncio.wait(self._ending)

    def _connected(self, url: str) -> _Open | None:
        entry = self._open.get(url)
        if entry is not None and not entry.channel.connected:
            self._retire(url, entry)
            return None
        return entry

    async def _dialled(self, url: str) -> None:
        """Waits for a new channel. The attempt ends when nobody waits for it any more."""
        attempt = self._attempts.get(url)
        if attempt is None:
            attempt = self._attempts[url] = _Attempt(asyncio.create_task(self._dial(url), name=f"dial {url}"))
        attempt.waiting += 1
        try:
            await asyncio.shield(attempt.task)
        finally:
            attempt.waiting -= 1
            if not attempt.waiting:
                del self._attempts[url]
                if not attempt.task.done():
                    attempt.task.cancel()
                    self._end(attempt.task)

    async def _dial(self, url: str) -> None:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(
                dial(url, timeout_s=self._timeout_s, credentials=self._credentials)
            )
            entry = self._open[url] = _Open(channel, stack.pop_all())
            self._rest(url, entry)

    def _rest(self, url: str, entry: _Open) -> None:
        """Has a channel that nobody uses closed: later, or now if it is not to be lent again."""
        if self._open.get(url) is entry:
            entry.idle = asyncio.get_running_loop().call_later(self._idle_s, self._retire, url, entry)
        else:
            self._close(entry)

    def _retire(self, url: str, entry: _Open) -> None:
        """Lends a channel no more; its last user closes it."""
        del self._open[url]
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
