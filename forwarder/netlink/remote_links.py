"""Looks at links in other namespaces, and in ours, from ours: their counters, and when they go away.

It enters none and holds none open, so a pod can go while its links are watched. One socket hears
of all of them, and only that they go: whatever else changes in any pod wakes nobody. Everything here
is done at once, on the event loop's thread; a look waits for nothing but the kernel's link lock.

Source: netlink(7), NETLINK_LISTEN_ALL_NSID; rtnetlink(7), IFLA_TARGET_NETNSID, which pyroute2 has by its
older name, IFLA_IF_NETNSID.
"""

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NETLINK_LISTEN_ALL_NSID, SOL_NETLINK
from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_DELNSID, RTM_NEWNSID

from forwarder.errors import NetlinkError
from forwarder.netlink import ingress, link, nsid, wire
from forwarder.netlink.channel import Channel
from forwarder.netlink.link import Statistics
from forwarder.netlink.request import Message, Request

log = logging.getLogger(__name__)

_RTNLGRP_LINK: Final = 1
_RTNLGRP_NSID: Final = 28
_RECEIVE_BYTES: Final = 1 << 16
_QUEUE_BYTES: Final = 4 << 20
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4)
_MESSAGES_PER_WAKE: Final = 64

HOME: Final = None
"""Stands for the number of our own namespace."""

Place = tuple[int | None, int]
"""Number of the namespace, index of the link."""


class RemoteLinks:
    """Every link of other namespaces that somebody here asks about."""

    def __init__(self) -> None:
        """Opens nothing yet."""
        self._channel: Channel | None = None
        self._events: socket.socket | None = None
        self._listeners: dict[Place, Callable[[str], None]] = {}

    def statistics(self, *places: Place) -> list[Statistics | None]:
        """Returns each link's counters, None for one that is not there."""
        return [link.parse(each).statistics if each else None for each in self._look(places, statistics=True)]

    def drops(self, *indices: int) -> list[int]:
        """Returns how many frames each of these links of ours had dropped by its filter; 0 if it is not there."""
        answers = self._ask([ingress.count_of_drops(index) for index in indices])
        return [ingress.parse_drops(answer) for answer in answers]

    def watch(self, listeners: Mapping[Place, Callable[[str], None]]) -> None:
        """Calls each, once and with the reason, when its link is not there any more; now, if it is not."""
        if self._events is None:
            self._events = self._listen()
        self._listeners.update(listeners)
        self._tell_absent(list(listeners), "it is not there")

    def forget(self, place: Place) -> None:
        """Ends a watch, if there is one; the last one closes the socket."""
        self._listeners.pop(place, None)
        if not self._listeners:
            self.close()

    def close(self) -> None:
        """Closes the sockets; does nothing the second time."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events)
            self._events.close()
            self._events = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _listen(self) -> socket.socket:
        sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            sock.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BYTES)
            wire.hear_only(sock, (RTM_DELLINK, RTM_DELNSID))
            sock.bind((0, 0))  # a socket without a port of its own hears nothing of the kernel
            for group in (_RTNLGRP_LINK, _RTNLGRP_NSID):
                sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError as error:
            sock.close()
            hint = "this needs CAP_NET_BROADCAST" if error.errno == errno.EPERM else ""
            raise NetlinkError(
                "cannot watch links of other network namespaces", errno=error.errno or 0, hint=hint
            ) from error
        asyncio.get_running_loop().add_reader(sock, self._read)
        return sock

    def _read(self) -> None:
        for _ in range(_MESSAGES_PER_WAKE):
            if self._events is None:
                return
            try:
                data, ancillary, _, _ = self._events.recvmsg(_RECEIVE_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Events were lost: look at every link.
                for place in list(self._listeners):
                    self._tell_absent([place], "it was deleted")
                continue
            self._take(data, _origin(ancillary))

    def _take(self, data: bytes, origin: int | None) -> None:
        for piece in wire.pieces(data):
            if piece.kind == RTM_DELLINK:
                index, why = wire.link_index(piece.body(data)), "it was deleted or moved to another namespace"
                self._tell((origin, index), why)
                if origin is None and (number := self._own_number()) is not None:
                    self._tell((number, index), why)
            elif piece.kind == RTM_DELNSID and origin is None:
                number = nsid.number(wire.ReadMessage(RTM_NEWNSID, piece.body(data)))
                for place in [each for each in self._listeners if each[0] == number]:
                    self._tell(place, "its network namespace has gone")

    def _own_number(self) -> int | None:
        """Returns the number that our namespace has in itself, if a link here is watched like any other."""
        if self._channel is None:
            return None
        with open("/proc/thread-self/ns/net", "rb") as own:
            return nsid.known(self._channel, own.fileno())

    def _look(self, places: Sequence[Place], *, statistics: bool = False) -> list[Message | None]:
        """Returns what the kernel says of each link, None for one that is not there.

        When a whole namespace has gone, all count as gone: those that are asked about together belong together.
        """
        questions = [link.get(at, nsid=number, may_be_absent=True, statistics=statistics) for number, at in places]
        try:
            answers = self._ask(questions)
        except NetlinkError as error:
            log.debug("%s", error)
            return [None] * len(places)
        return [answer[0] if answer else None for answer in answers]

    def _ask(self, questions: Sequence[Request]) -> list[list[Message]]:
        if self._channel is None:
            self._channel = Channel()
        return self._channel.execute(questions)

    def _tell_absent(self, places: Sequence[Place], why: str) -> None:
        """Tells of every link that is not there."""
        for place, found in zip(places, self._look(places), strict=True):
            if found is None:
                self._tell(place, why)

    def _tell(self, place: Place, why: str) -> None:
        gone = self._listeners.pop(place, None)
        if gone is not None:
            gone(why)


def _origin(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Returns the number of the namespace that a message comes from; None for our own."""
    for level, kind, payload in ancillary:
        if (level, kind, len(payload)) == (SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 4):
            found = int(struct.unpack("=i", payload)[0])
            return found if found >= 0 else None
    return None
