"""Listens to the next hop of one connection and makes what it says our own view's news."""

import logging
from collections.abc import Callable

from forwarder.api.connection_pb2 import DOWN, Connection
from forwarder.api.path import copy
from forwarder.connection.monitor import Monitor, adopt, follow, next_hop_selector
from forwarder.connection.table import ConnectionTable, Entry
from forwarder.errors import ForwarderError, NextHopError
from forwarder.service.held import Held
from forwarder.service.next_hops import Dial

_log = logging.getLogger(__name__)


async def watch_next_hop(
    entry: Entry[Held],
    *,
    table: ConnectionTable[Held],
    monitor: Monitor,
    dial: Dial,
    down: Callable[[Entry[Held], str], None],
) -> None:
    """Follows the next hop's events about `entry` until the stream ends or breaks, which is DOWN too.

    A next hop that serves no monitor is left alone.
    """
    held, connection = entry.held, entry.connection
    if held is None or connection is None or held.downstream is None:
        return
    url = held.downstream.url

    async def changed(theirs: Connection) -> None:
        async with table.turn(entry.id) as now:
            known = monitor.get(entry.id)
            if now.held is not held or known is None:
                return
            view = adopt(theirs, known)
            if held.wiring.fault:
                view.state = DOWN
            if view == known:
                return
            if view.state == DOWN:
                down(now, "the next hop says so")
            now.connection = copy(view)
            monitor.update(view)

    try:
        async with dial(url) as server, server.monitor(next_hop_selector(connection)) as events:
            await follow(events, lambda: monitor.get(entry.id), changed)
        reason = "the next hop ended its monitor stream"
    except ForwarderError as error:
        if isinstance(error, NextHopError) and error.status == "UNIMPLEMENTED":
            _log.info("the next hop %s serves no monitor; its failure will not be noticed", url)
            return
        reason = str(error)
    async with table.turn(entry.id) as now:
        if now.held is held:
            down(now, reason)
