"""The connections of one program: one event at a time for each, in order.

What is promised, for each connection id:
- Requests, Closes and our own events (expiry, a next hop gone) take turns, first come first served;
  different ids do not wait for each other.
- When the first Request of a connection fails or is cancelled, what it acquired is undone and the id
  is forgotten before the next event's turn. When a later Request fails, the connection stays as it was.
- Close works on the connection as the last successful Request left it, whatever the caller passed;
  closing an unknown id succeeds.
- Undoing is not cut short by the caller's cancellation; it has its own deadline, as long as the one
  the last Request was given, and LEAST_SECONDS at least.

Source: sdk's `begin`, whose guarantees these are.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Generic, TypeVar

from forwarder.api.connection_pb2 import RESELECT_REQUESTED, UP, Connection
from forwarder.connection import current
from forwarder.connection.path import new_id
from forwarder.connection.shielded import shielded
from forwarder.errors import InvalidRequest

T = TypeVar("T")

DEFAULT_SECONDS = 15.0
"""The deadline of undoing for a Request that came without one: what NSM's client gives a Request."""

LEAST_SECONDS = 10.0
"""The shortest deadline of undoing: a caller in a hurry must not make us leave things behind."""

_log = logging.getLogger(__name__)


class Entry(Generic[T]):
    """One connection: its last answer and everything that must be undone when it closes."""

    def __init__(self, connection_id: str, caller_id: str) -> None:
        self.id = connection_id
        self.caller_id = caller_id
        self.connection: Connection | None = None
        """As the last successful Request left it, in our own view; None before that."""
        self.stack = AsyncExitStack()
        """Steps enter here what they acquire. Unwound by Close, or when the first Request fails."""
        self.held: T | None = None
        """What the program keeps beside the connection, to compare a later Request with."""
        self.seconds = DEFAULT_SECONDS
        """The deadline of undoing."""
        self.users = 0
        self.lock = asyncio.Lock()

    @property
    def established(self) -> bool:
        """Says whether a Request has succeeded and no Close came since."""
        return self.connection is not None

    def establish(self, connection: Connection) -> None:
        """Makes `connection`, in our own view, the state that Close and watchers refer to."""
        connection.state = UP
        self.connection = connection

    async def close(self) -> None:
        """Undoes everything in reverse order. Every part is tried; the last failure is raised."""
        stack, self.stack = self.stack, AsyncExitStack()
        self.connection = None
        self.held = None
        await shielded(stack.aclose(), self.seconds)


class ConnectionTable(Generic[T]):
    """All connections of one program."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry[T]] = {}
        self._by_caller: dict[str, str] = {}

    def __len__(self) -> int:
        """Returns how many connections are established."""
        return sum(1 for _ in self.established())

    def established(self) -> Iterator[Entry[T]]:
        """Goes through the established connections."""
        return (entry for entry in list(self._entries.values()) if entry.established)

    def get(self, connection_id: str) -> Entry[T] | None:
        """Returns the established connection with this id. Look only: changes need a turn."""
        entry = self._entries.get(connection_id)
        return entry if entry is not None and entry.established else None

    def id_for(self, caller_id: str) -> str:
        """Returns our connection id for a caller that does not know it: the one it has, or a new one.

        A caller that repeats its first Request because the answer got lost thereby finds its
        connection again, and two such Requests at a time take turns.
        """
        return self._by_caller.get(caller_id) or new_id()

    @asynccontextmanager
    async def turn(self, connection_id: str, *, caller_id: str = "") -> AsyncIterator[Entry[T]]:
        """Waits until every earlier event of this connection is over, and keeps later ones waiting.

        If the connection is not established on leaving, whatever is on its stack is undone, and it
        is forgotten unless another event waits.
        Raises InvalidRequest for an empty id.
        """
        if not connection_id:
            raise InvalidRequest("the connection has no id")
        entry = self._entries.get(connection_id)
        if entry is None:
            entry = self._entries[connection_id] = Entry(connection_id, caller_id)
            if caller_id:
                self._by_caller[caller_id] = connection_id
        entry.users += 1
        token = current.connection_id.set(connection_id)
        try:
            async with entry.lock:
                try:
                    yield entry
                finally:
                    if not entry.established:
                        await _quietly(entry.close())
        finally:
            current.connection_id.reset(token)
            entry.users -= 1
            if entry.users == 0 and not entry.established:
                del self._entries[connection_id]
                if self._by_caller.get(entry.caller_id) == connection_id:
                    del self._by_caller[entry.caller_id]

    async def request(
        self,
        asked: Connection,
        work: Callable[[Entry[T]], Awaitable[Connection]],
        *,
        seconds: float | None = None,
        caller_id: str = "",
        closed: Callable[[Connection], None] = lambda _connection: None,
    ) -> Connection:
        """Takes a turn for `asked.id`, in which `work` makes or refreshes the connection.

        `work` returns the answer in our own view; it is stored, with the state UP, and returned.
        `seconds` is what the caller gave the Request. When the caller asks for another endpoint
        (RESELECT_REQUESTED), an established connection is closed first, which `closed` is told, and
        `work` starts anew.
        """
        async with self.turn(asked.id, caller_id=caller_id) as entry:
            return await self.request_entry(entry, asked, work, seconds=seconds, closed=closed)

    async def request_entry(
        self,
        entry: Entry[T],
        asked: Connection,
        work: Callable[[Entry[T]], Awaitable[Connection]],
        *,
        seconds: float | None = None,
        closed: Callable[[Connection], None] = lambda _connection: None,
    ) -> Connection:
        """Does what `request` does, for an event that has its turn already."""
        entry.seconds = DEFAULT_SECONDS if seconds is None else max(seconds, LEAST_SECONDS)
        if asked.state == RESELECT_REQUESTED and entry.established:
            await _quietly(self.close_entry(entry, closed))
        entry.establish(await work(entry))
        assert entry.connection is not None
        return entry.connection

    async def close(self, connection_id: str, closed: Callable[[Connection], None] = lambda _connection: None) -> None:
        """Takes a turn in which the connection is undone; nothing to do if there is none.

        `closed` is told the stored connection, still inside the turn, also when undoing failed.
        Raises what undoing a part raised, after every part was tried.
        """
        async with self.turn(connection_id) as entry:
            await self.close_entry(entry, closed)

    async def close_entry(
        self, entry: Entry[T], closed: Callable[[Connection], None] = lambda _connection: None
    ) -> None:
        """Does what `close` does, for an event that has its turn already."""
        connection = entry.connection
        if connection is None:
            return
        try:
            await entry.close()
        finally:
            closed(connection)

    async def close_all(self, closed: Callable[[Connection], None] = lambda _connection: None) -> None:
        """Closes every connection, side by side. Failures are logged."""
        async with asyncio.TaskGroup() as group:
            for connection_id in list(self._entries):
                group.create_task(_quietly(self.close(connection_id, closed)))


async def _quietly(work: Awaitable[None]) -> None:
    """Awaits clean-up whose failure has nobody to go to but the log."""
    try:
        await work
    except Exception as error:
        _log.warning("closing was not complete: %s", error, exc_info=not isinstance(error, OSError))
