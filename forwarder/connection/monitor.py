"""Tells watchers how connections change, and listens to what the next hop says about ours.

Server side: `Monitor` holds our view of every connection and serves any number of watchers. A
watcher that does not read holds up nobody: what it has not read is kept per connection, and a newer
state takes the place of an older one, so it needs room for the connections there are, not for the
events there were. It therefore may miss states in between, never the last one, and a DELETE always
arrives for a connection it has heard of.

Client side: `follow` turns the next hop's stream into changes of our own view.
Source: NSM connection.proto `MonitorConnection`; sdk's monitor server and client.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from forwarder.api.connection_pb2 import (
    DELETE,
    DOWN,
    INITIAL_STATE_TRANSFER,
    UPDATE,
    Connection,
    ConnectionEvent,
    MonitorScopeSelector,
    PathSegment,
)
from forwarder.api.monitor import matches, select
from forwarder.api.path import copy


class Watcher:
    """One reader's outstanding events."""

    def __init__(self, selector: MonitorScopeSelector, known: dict[str, Connection]) -> None:
        self._selector = selector
        initial = select(selector, known)
        self._initial: dict[str, Connection] | None = initial
        self._told = set(initial)
        """Connections that the reader has heard of, or will with what is pending first."""
        self._deleted: OrderedDict[str, Connection] = OrderedDict()
        self._updated: OrderedDict[str, Connection] = OrderedDict()
        self._wake = asyncio.Event()
        self._wake.set()

    def update(self, connection: Connection) -> None:
        """Keeps `connection` as the newest state of its id, if the reader asked for it."""
        if matches(self._selector, connection):
            self._updated[connection.id] = connection
            self._wake.set()
        else:
            self._updated.pop(connection.id, None)

    def delete(self, connection: Connection) -> None:
        """Keeps that the connection is gone, unless the reader never heard of it."""
        self._updated.pop(connection.id, None)
        if connection.id in self._told:
            self._deleted[connection.id] = connection
            self._wake.set()

    @property
    def pending(self) -> int:
        """Returns how many connections' events wait to be read."""
        return len(self._updated) + len(self._deleted)

    async def next(self) -> ConnectionEvent:
        """Waits for something to tell and returns it: first the initial transfer, possibly empty."""
        await self._wake.wait()
        if self._initial is not None:
            initial, self._initial = self._initial, None
            event = _event(INITIAL_STATE_TRANSFER, initial)
        elif self._deleted:
            deleted, self._deleted = self._deleted, OrderedDict()
            self._told -= deleted.keys()
            event = _event(DELETE, deleted)
        else:
            updated, self._updated = self._updated, OrderedDict()
            self._told |= updated.keys()
            event = _event(UPDATE, updated)
        if not self.pending:
            self._wake.clear()
        return event


class Monitor:
    """Our view of every connection, and its watchers."""

    def __init__(self) -> None:
        self._known: dict[str, Connection] = {}
        self._watchers: set[Watcher] = set()

    @property
    def watchers(self) -> int:
        """Returns how many streams are open."""
        return len(self._watchers)

    def get(self, connection_id: str) -> Connection | None:
        """Returns what watchers were last told about a connection."""
        return self._known.get(connection_id)

    def update(self, connection: Connection) -> None:
        """Tells watchers the state of `connection`, whose id and path index are our own segment's."""
        view = copy(connection)
        self._known[view.id] = view
        for watcher in self._watchers:
            watcher.update(view)

    def set_down(self, connection_id: str) -> None:
        """Tells watchers that a connection carries no frames any more. Unknown ids are ignored."""
        known = self._known.get(connection_id)
        if known is None or known.state == DOWN:
            return
        view = copy(known)
        view.state = DOWN
        self.update(view)

    def delete(self, connection_id: str) -> None:
        """Tells watchers that a connection was closed. Unknown ids are ignored."""
        view = self._known.pop(connection_id, None)
        if view is None:
            return
        for watcher in self._watchers:
            watcher.delete(view)

    async def watch(self, selector: MonitorScopeSelector) -> AsyncGenerator[ConnectionEvent, None]:
        """Yields INITIAL_STATE_TRANSFER, then UPDATE and DELETE as they come, until the reader leaves."""
        watcher = Watcher(selector, self._known)
        self._watchers.add(watcher)
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)


def _event(kind: int, connections: dict[str, Connection]) -> ConnectionEvent:
    event = ConnectionEvent(type=kind)  # type: ignore[arg-type]
    for connection_id, connection in connections.items():
        event.connections[connection_id].CopyFrom(connection)
    return event


def next_hop_selector(connection: Connection) -> MonitorScopeSelector:
    """Returns what to ask the next hop for: the connection whose path has our segment."""
    own = connection.path.path_segments[connection.path.index]
    return MonitorScopeSelector(path_segments=[PathSegment(name=own.name, id=own.id)])


def concerns(event: Connection, own: Connection) -> bool:
    """Says whether the next hop's view `event` is of our connection `own`.

    It is when it has our segment at our place, and its sender is our next hop or ourselves.
    """
    index = own.path.index
    segments = event.path.path_segments
    return len(segments) > index and segments[index].id == own.id and event.path.index in (index, index + 1)


def adopt(event: Connection, own: Connection) -> Connection:
    """Returns our view `own` with the path right of us, the context and the state of the next hop's view."""
    view = copy(own)
    index = own.path.index
    del view.path.path_segments[index + 1 :]
    view.path.path_segments.extend(event.path.path_segments[index + 1 :])
    view.context.CopyFrom(event.context)
    view.state = event.state
    return view


async def follow(
    events: AsyncIterator[ConnectionEvent],
    own: Callable[[], Connection | None],
    changed: Callable[[Connection], Awaitable[None]],
) -> None:
    """Calls `changed` with the next hop's view whenever that would change `own()`, our current one.

    A DELETE makes its state DOWN, and so does an initial transfer without our connection: the next
    hop has lost it. An initial state equal to ours is no change. `changed` has to
    `adopt` the view in the connection's turn, as ours may have changed while it waited for it.
    Returns at the end of `events`, or when `own()` is None; what `events` raises is raised.
    """
    async for event in events:
        views = list(event.connections.values())
        known = own()
        initial = event.type == INITIAL_STATE_TRANSFER
        if initial and known is not None and not any(concerns(theirs, known) for theirs in views):
            lost = copy(known)
            lost.state = DOWN
            views.append(lost)
        for theirs in views:
            known = own()
            if known is None:
                return
            if not concerns(theirs, known):
                continue
            if event.type == DELETE:
                theirs.state = DOWN
            if adopt(theirs, known) != known:
                await changed(theirs)
