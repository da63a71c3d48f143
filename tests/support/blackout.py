"""How much a vWire loses while something happens to it: numbered UDP datagrams, a thousand a second each way."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

from tests.support.netns import Netns

PORT = 7077
_INTERVAL_S = 0.001
_PATIENCE_S = 5.0
"""For the last datagrams to arrive."""
_NUMBER = struct.Struct("!I")


@dataclass(slots=True)
class Direction:
    """What was sent one way, and what arrived."""

    sent: int = 0
    arrived: list[int] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return self.sent - len(set(self.arrived))

    @property
    def duplicated(self) -> int:
        return len(self.arrived) - len(set(self.arrived))

    @property
    def reordered(self) -> int:
        return sum(later < earlier for earlier, later in zip(self.arrived, self.arrived[1:], strict=False))


@dataclass(slots=True)
class Blackout:
    """Both ways; complete once the context has been left."""

    forth: Direction = field(default_factory=Direction)
    back: Direction = field(default_factory=Direction)

    @property
    def nothing_lost(self) -> bool:
        """Something was sent, and all of it arrived, once and in order."""
        return all(way.sent and not (way.lost or way.duplicated or way.reordered) for way in (self.forth, self.back))


@asynccontextmanager
async def blackout(near: Netns, far: Netns, near_address: str, far_address: str) -> AsyncIterator[Blackout]:
    """Sends both ways for as long as the context lasts, then waits for the last to arrive."""
    report = Blackout()
    stop = threading.Event()
    a, b = (_socket(netns, address) for netns, address in ((near, near_address), (far, far_address)))
    with ExitStack() as stack:
        stack.enter_context(a)
        stack.enter_context(b)
        a.connect(b.getsockname())
        b.connect(a.getsockname())
        sending = asyncio.create_task(asyncio.to_thread(_send, a, b, report, stop))
        try:
            yield report
        finally:
            stop.set()
            await sending


def _socket(netns: Netns, address: str) -> socket.socket:
    plain = address.partition("/")[0]
    sock = netns.socket(socket.AF_INET6 if ":" in plain else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((plain, PORT))
    sock.setblocking(False)
    return sock


def _send(a: socket.socket, b: socket.socket, report: Blackout, stop: threading.Event) -> None:
    number = 0
    while not stop.wait(_INTERVAL_S):
        for sock, way in ((a, report.forth), (b, report.back)):
            sock.send(_NUMBER.pack(number))
            way.sent += 1
        number += 1
        _take(a, b, report)
    deadline = time.monotonic() + _PATIENCE_S
    while (report.forth.lost or report.back.lost) and time.monotonic() < deadline:
        time.sleep(_INTERVAL_S)
        _take(a, b, report)


def _take(a: socket.socket, b: socket.socket, report: Blackout) -> None:
    for sock, way in ((b, report.forth), (a, report.back)):
        try:
            while True:
                way.arrived.append(_NUMBER.unpack(sock.recv(64))[0])
        except BlockingIOError:
            pass
