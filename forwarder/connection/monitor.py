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
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

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

T = TypeVar("T")


class Watcher:
    """One reader's outstanding events."""

    def __init__(self, selector: MonitorScopeSelector, known: dict[str, Connection]) -> None:
        self.concerned: set[str] = set()
        """The monitor's: the connections that it may have to hear of because of the segment it named."""
        self._selector = selector
        initial = select(selector, known)
        self._initial: dict[str, Connection] | None = initial
        self._told = set(initial)
        """Connections that the reader has heard of, or will with what is pending first."""
        self._deleted: dict[str, Connection] = {}
        self._updated: dict[str, Connection] = {}
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
            deleted, self._deleted = self._deleted, {}
            self._told -= deleted.keys()
            event = _event(DELETE, deleted)
        else:
            updated, self._updated = self._updated, {}
            self._told |= updated.keys()
            event = _event(UPDATE, updated)
        if not self.pending:
            self._wake.clear()
        return event


class Monitor:
    """Our view of every connection, and its watchers.

    Most watchers name the one connection that they watch, by a segment of its path. They are found by
    that, so that a change costs the same among a thousand connections as among ten.
    """

    def __init__(self) -> None:
        self._known: dict[str, Connection] = {}
        self._by_segment: defaultdict[str, set[str]] = defaultdict(set)
        """From the id of a segment to the connections whose path has it."""
        self._watchers: dict[Watcher, str] = {}
        """With the id of the segment that each named; "" if it named none."""
        self._watching: defaultdict[str, set[Watcher]] = defaultdict(set)
        """The other way round."""
        self._concerned: defaultdict[str, set[Watcher]] = defaultdict(set)
        """From a connection to the watchers that named a segment which its path has, or had."""

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
        self._forget_path(view.id)
        self._known[view.id] = view
        for segment in view.path.path_segments:
            if segment.id:
                self._by_segment[segment.id].add(view.id)
                for watcher in self._watching.get(segment.id, ()):
                    self._concern(watcher, view.id)
        for watcher in self._all_for(view.id):
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
        self._forget_path(connection_id)
        view = self._known.pop(connection_id, None)
        if view is None:
            return
        for watcher in self._all_for(connection_id):
            watcher.delete(view)
            watcher.concerned.discard(connection_id)
        self._concerned.pop(connection_id, None)

    def attach(self, selector: MonitorScopeSelector) -> Watcher:
        """Adds a watcher, which first tells what there is; `detach` it."""
        named = _named(selector)
        ids = self._by_segment.get(named, ()) if named else self._known
        watcher = Watcher(selector, {each: self._known[each] for each in ids})
        self._watchers[watcher] = named
        self._watching[named].add(watcher)
        for each in ids if named else ():
            self._concern(watcher, each)
        return watcher

    def detach(self, watcher: Watcher) -> None:
        """Takes a watcher away."""
        _discard(self._watching, self._watchers.pop(watcher), watcher)
        for connection_id in watcher.concerned:
            _discard(self._concerned, connection_id, watcher)

    async def watch(self, selector: MonitorScopeSelector) -> AsyncGenerator[ConnectionEvent, None]:
        """Yields INITIAL_STATE_TRANSFER, then UPDATE and DELETE as they come, until the reader leaves."""
        watcher = self.attach(selector)
        try:
            while True:
                yield await watcher.next()
        finally:
            self.detach(watcher)

    def _concern(self, watcher: Watcher, connection_id: str) -> None:
        self._concerned[connection_id].add(watcher)
        watcher.concerned.add(connection_id)

    def _all_for(self, connection_id: str) -> list[Watcher]:
        """Returns who may have to hear of a connection."""
        return [*self._concerned.get(connection_id, ()), *self._watching.get("", ())]

    def _forget_path(self, connection_id: str) -> None:
        known = self._known.get(connection_id)
        for segment in known.path.path_segments if known is not None else ():
            _discard(self._by_segment, segment.id, connection_id)


def _named(selector: MonitorScopeSelector) -> str:
    """Returns an id that the path of whatever is within `selector` has; "" if it names none."""
    return next((segment.id for segment in selector.path_segments if segment.id), "")


def _discard(sets: defaultdict[str, set[T]], key: str, member: T) -> None:
    """Takes a member out of a set, and an empty set out of the sets."""
    if key in sets:
        sets[key].discard(member)
        if not sets[key]:
            del sets[key]


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
