"""Tells when links of a namespace come up, go down, appear, move away or are deleted.

Source: rtnetlink(7) RTNLGRP_LINK, net/core/rtnetlink.c.
"""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

from forwarder.errors import NetlinkError
from forwarder.netlink import link as links
from forwarder.netlink.link import RTM_DELLINK, RTM_NEWLINK, Link
from forwarder.netlink.message import parse_attributes, parse_messages
from forwarder.netlink.netns import Netns, run_in

_RTMGRP_LINK: Final = 1
_IFLA_NEW_NETNSID: Final = 45
_IFINFOMSG_BYTES: Final = 16
_RECEIVE_BYTES: Final = 1 << 16
_RECEIVE_BUFFER_BYTES: Final = 1 << 20


class Change(Enum):
    """What happened."""

    CHANGED = "changed"
    """The link is new, or something of it changed: `link` is how it is now."""
    DELETED = "deleted"
    MOVED = "moved"
    """It went to another network namespace."""
    OVERRUN = "overrun"
    """Events were lost: the listener should look at its links again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvent:
    """One thing that happened to a link."""

    change: Change
    link: Link | None = None
    """None with OVERRUN only."""


class LinkWatch:
    """The events of one namespace, in order, as an async iterator for one listener."""

    def __init__(self, events: socket.socket) -> None:
        self._socket = events
        self._pending: list[LinkEvent] = []

    def __aiter__(self) -> AsyncIterator[LinkEvent]:
        return self

    async def __anext__(self) -> LinkEvent:
        loop = asyncio.get_running_loop()
        while not self._pending:
            try:
                data = await loop.sock_recv(self._socket, _RECEIVE_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError("cannot watch links", errno=error.errno or 0) from error
                return LinkEvent(change=Change.OVERRUN)
            self._pending = parse_events(data)[::-1]
        return self._pending.pop()


def parse_events(data: bytes) -> list[LinkEvent]:
    """Decodes what one read from the socket gave."""
    events = []
    for message in parse_messages(data):
        if message.type == RTM_NEWLINK:
            events.append(LinkEvent(change=Change.CHANGED, link=links.parse(message)))
        elif message.type == RTM_DELLINK:
            moved = _IFLA_NEW_NETNSID in parse_attributes(message.body, _IFINFOMSG_BYTES)
            events.append(LinkEvent(change=Change.MOVED if moved else Change.DELETED, link=links.parse(message)))
    return events


@asynccontextmanager
async def watch_links(netns: Netns | None = None) -> AsyncIterator[LinkWatch]:
    """Watches the links of a namespace (None: ours) for as long as the context lasts.

    Nothing that happens after the context was entered is missed, short of an OVERRUN.
    """

    def subscribe() -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            made.bind((0, _RTMGRP_LINK))
        except OSError as error:
            made.close()
            raise NetlinkError("cannot watch links", errno=error.errno or 0) from error
        return made

    events = await run_in(netns, subscribe, discard=socket.socket.close)
    try:
        yield LinkWatch(events)
    finally:
        events.close()
