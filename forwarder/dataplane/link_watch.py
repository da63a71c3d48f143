"""Whether links are up, and when they go away: rtnetlink's link events of one namespace.

One watch serves all ports of a namespace. It reads link flags only; changing links is
not here. Source: rtnetlink(7), netdevice(7).
"""

import asyncio
import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from forwarder.errors import DataplaneError
from forwarder.netns import run_in

RTMGRP_LINK = 1
RTM_NEWLINK = 16
RTM_DELLINK = 17
IFLA_NEW_NETNSID = 45
IFF_UP = 0x1
IFF_RUNNING = 0x40
SIOCGIFNAME = 0x8910
SIOCGIFFLAGS = 0x8913

NLMSGHDR = struct.Struct("=IHHII")
IFINFOMSG = struct.Struct("=BxHiII")
RTATTR = struct.Struct("=HH")

RECEIVE_BYTES = 1 << 16
QUEUE_BYTES = 4 << 20
"""Room for the events of about a thousand links that change at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What became of a link."""

    up: bool = False
    """Frames can pass: it is up, and so is the other end."""
    gone: str = ""
    """Why it is not in the namespace any more; empty while it is."""


def parse_link_events(messages: bytes) -> list[tuple[int, LinkState]]:
    """Decodes a buffer of rtnetlink messages into link indices and their states, in order.

    Messages of other types, and whatever follows a malformed one, are left out.
    Source: linux/rtnetlink.h.
    """
    events = []
    at = 0
    while at + NLMSGHDR.size <= len(messages):
        length, kind, *_ = NLMSGHDR.unpack_from(messages, at)
        end = at + length
        body = at + NLMSGHDR.size
        if length < NLMSGHDR.size or end > len(messages):
            break
        if kind in (RTM_NEWLINK, RTM_DELLINK) and body + IFINFOMSG.size <= end:
            _, _, ifindex, flags, _ = IFINFOMSG.unpack_from(messages, body)
            if kind == RTM_NEWLINK:
                events.append((ifindex, _state(flags)))
            else:
                moved = IFLA_NEW_NETNSID in _attributes(messages[body + IFINFOMSG.size : end])
                gone = "it was moved to another network namespace" if moved else "it was deleted"
                events.append((ifindex, LinkState(gone=gone)))
        at += length + 3 & ~3
    return events


def _attributes(attributes: bytes) -> set[int]:
    """Returns the types of a run of rtnetlink attributes."""
    types = set()
    at = 0
    while at + RTATTR.size <= len(attributes):
        length, kind = RTATTR.unpack_from(attributes, at)
        if length < RTATTR.size:
            break
        types.add(kind)
        at += length + 3 & ~3
    return types


def _state(flags: int) -> LinkState:
    return LinkState(up=bool(flags & IFF_UP and flags & IFF_RUNNING))


def read_link_state(sock: socket.socket, ifindex: int) -> LinkState:
    """Asks for a link's state, in the namespace of `sock`, without waiting for the kernel's link lock."""
    try:
        request = fcntl.ioctl(sock, SIOCGIFNAME, struct.pack("=16si20x", b"", ifindex))
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("=16s24x", request[:16]))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return LinkState(gone="it was deleted or moved to another network namespace")
    return _state(struct.unpack_from("=H", answer, 16)[0])


class LinkWatch:
    """Tells who asked about a link whenever its state may have changed."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a subscribed rtnetlink socket; see `open_link_watch`."""
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[int, Callable[[LinkState], None]] = {}
        self._loop.add_reader(sock, self._read)

    @property
    def watched(self) -> int:
        """How many links are watched."""
        return len(self._listeners)

    def add(self, ifindex: int, listener: Callable[[LinkState], None]) -> None:
        """Calls `listener` with the link's state now and after each change, until removed.

        Raises DataplaneError if the link is watched already.
        """
        if ifindex in self._listeners:
            raise DataplaneError(f"link {ifindex} already has a port", errno=errno.EBUSY)
        self._listeners[ifindex] = listener
        listener(read_link_state(self._socket, ifindex))

    def remove(self, ifindex: int) -> None:
        """Stops telling about a link."""
        del self._listeners[ifindex]

    def close(self) -> None:
        """Stops watching."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            messages = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            # Events were lost: ask for all.
            for ifindex, listener in list(self._listeners.items()):
                listener(read_link_state(self._socket, ifindex))
            return
        for ifindex, state in parse_link_events(messages):
            if ifindex in self._listeners:
                self._listeners[ifindex](state)


def _subscribe() -> socket.socket:
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
        sock.bind((0, RTMGRP_LINK))
    except OSError:
        sock.close()
        raise
    return sock


async def open_link_watch(netns: int | None) -> LinkWatch:
    """Subscribes to the link events of the namespace `netns` refers to. Raises OSError."""
    return LinkWatch(await run_in(netns, _subscribe, discard=socket.socket.close))
