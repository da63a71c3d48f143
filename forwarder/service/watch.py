"""Listens to next hops, and makes what they say of our connections our own view's news.

One stream for each next hop, whatever the number of connections: it asks for everything whose path
has a segment of our name, and finds ours by their ids. A stream for each connection, as NSM's
programs have it, costs 31 KiB for each.
"""

import asyncio
import logging
from collections.abc import Callable

from forwarder.api.connection_pb2 import (
    DELETE,
    DOWN,
    INITIAL_STATE_TRANSFER,
    Connection,
    ConnectionEvent,
    MonitorScopeSelector,
    PathSegment,
)
from forwarder.api.path import copy
from forwarder.connection.background import Background
from forwarder.connection.monitor import Monitor, adopt, concerns
from forwarder.connection.table import ConnectionTable, Entry
from forwarder.errors import ForwarderError, NextHopError
from forwarder.service.held import Held
from forwarder.service.next_hops import Dial

_UNWILLING = ("UNIMPLEMENTED", "PERMISSION_DENIED")
"""What a next hop answers that does not tell us anything: no fault of the connections."""

_log = logging.getLogger(__name__)


class _Stream:
    """One next hop and the connections that go there."""

    def __init__(self) -> None:
        self.followers: dict[str, Entry[Held]] = {}
        """By our id of the connection."""
        self.pending: dict[str, Connection] = {}
        """What was said last of those whose turn is waited for."""
        self.task: asyncio.Task[None] | None = None


class Watches:
    """Who listens to which next hop. Tasks belong to `background`."""

    def __init__(
        self,
        name: str,
        *,
        table: ConnectionTable[Held],
        monitor: Monitor,
        dial: Dial,
        background: Background,
        down: Callable[[Entry[Held], str], None],
    ) -> None:
        """`name` is ours on the path; `down` is told, in its turn, of a connection that carries nothing more."""
        self._selector = MonitorScopeSelector(path_segments=[PathSegment(name=name)])
        self._table = table
        self._monitor = monitor
        self._dial = dial
        self._background = background
        self._down = down
        self._streams: dict[str, _Stream] = {}

    def __len__(self) -> int:
        """Returns how many streams are open."""
        return len(self._streams)

    def follow(self, entry: Entry[Held]) -> None:
        """Sees to it that somebody listens to the connection's next hop, until it closes or moves."""
        held = entry.held
        assert held is not None
        assert held.downstream is not None
        url = held.downstream.url
        if not held.watched_url:
            entry.stack.callback(self.leave, entry.id, held)
        elif held.watched_url != url:
            self.leave(entry.id, held)
        held.watched_url = url
        stream = self._streams.get(url)
        if stream is None:
            stream = self._streams[url] = _Stream()
            stream.task = self._background.start(self._listen(url, stream), f"watch {url}")
        stream.followers[entry.id] = entry

    def leave(self, connection_id: str, held: Held) -> None:
        """Stops following a connection, until it is followed again."""
        url, held.watched_url = held.watched_url, ""
        stream = self._streams.get(url)
        if stream is None:
            return
        stream.followers.pop(connection_id, None)
        if not stream.followers:
            del self._streams[url]
            if stream.task is not None:
                stream.task.cancel()

    async def _listen(self, url: str, stream: _Stream) -> None:
        """Reads the next hop's events until the stream ends or breaks, which is DOWN for all that go there."""
        try:
            async with self._dial(url) as server:
                # Those that come later than this the next hop need not have in its first answer.
                asked = dict(stream.followers)
                async with server.monitor(self._selector) as events:
                    async for event in events:
                        self._told(event, stream, asked if event.type == INITIAL_STATE_TRANSFER else {})
            reason = "the next hop ended its monitor stream"
        except ForwarderError as error:
            reason = str(error)
            if isinstance(error, NextHopError) and error.status in _UNWILLING:
                _log.info("the next hop %s tells nothing of connections; its failure will not be noticed", url)
                self._end(url, stream)
                return
        for entry in self._end(url, stream):
            self._background.start(self._lost(entry, reason), f"lost {entry.id}")

    def _end(self, url: str, stream: _Stream) -> list[Entry[Held]]:
        """Takes the stream out, so that the next Request begins another; returns who followed it."""
        if self._streams.get(url) is stream:
            del self._streams[url]
        return list(stream.followers.values())

    def _told(self, event: ConnectionEvent, stream: _Stream, asked: dict[str, Entry[Held]]) -> None:
        """Passes on what an event says of each of our connections; `asked` it has to mention."""
        mentioned = set()
        for theirs in event.connections.values():
            for segment in theirs.path.path_segments:
                if segment.id in stream.followers:
                    mentioned.add(segment.id)
                    if event.type == DELETE:
                        theirs.state = DOWN
                    self._changed(segment.id, stream, theirs)
                    break
        for connection_id in asked.keys() & stream.followers.keys() - mentioned:  # some have left meanwhile
            known = self._monitor.get(connection_id)
            if known is not None:
                lost = copy(known)
                lost.state = DOWN
                self._changed(connection_id, stream, lost)

    def _changed(self, connection_id: str, stream: _Stream, theirs: Connection) -> None:
        if connection_id in stream.pending:
            stream.pending[connection_id] = copy(theirs)
            return
        known = self._monitor.get(connection_id)
        if known is not None and (not concerns(theirs, known) or adopt(theirs, known) == known):
            return
        stream.pending[connection_id] = copy(theirs)
        entry = stream.followers[connection_id]
        self._background.start(self._adopted(entry, stream), f"news of {connection_id}")

    async def _adopted(self, entry: Entry[Held], stream: _Stream) -> None:
        """Makes what was said last our own view, in the connection's turn."""
        async with self._table.turn(entry.id) as now:
            theirs = stream.pending.pop(entry.id)
            known = self._monitor.get(entry.id)
            if now is not entry or now.held is None or known is None or stream.followers.get(entry.id) is not entry:
                return
            if not concerns(theirs, known):
                return
            view = adopt(theirs, known)
            if now.held.wiring.fault:
                view.state = DOWN
            if view == known:
                return
            if view.state == DOWN:
                self._down(now, "the next hop says so")
            now.connection = copy(view)
            self._monitor.update(view)

    async def _lost(self, entry: Entry[Held], reason: str) -> None:
        async with self._table.turn(entry.id) as now:
            if now is entry and now.held is not None:
                self._down(now, reason)
