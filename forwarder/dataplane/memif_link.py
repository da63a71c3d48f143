"""Keeps one memif port connected to its peer, in either role, for as long as it is open.

Server: waits behind a listener for the peer that knows the id and the secret. Client: connects, and
when nobody listens, tries again after a sixteenth of the time it has been trying, 5 ms at least and
2 s at most, and at once when the socket's file appears. So a peer that was away for a while waits
for us a sixteenth of that while; half a minute's absence costs 130 tries, and then it is one in two
seconds. A connection that lasted is followed by the next at once, one that did not after 10 ms, and
after twice the last pause, up to 1 s, only if the same server goes on ending them: one that has been
away in between, or has made its file anew, was started anew. A random part is taken off each pause.
Each connection gets memory of its own, which goes with it: a former peer may still have it mapped.
"""

import asyncio
import errno
import logging
import random
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from forwarder.dataplane.file_watch import FileWatch
from forwarder.dataplane.lean_event import LeanEvent
from forwarder.dataplane.memif_control import (
    Disconnected,
    Established,
    Interface,
    InterfaceChosen,
    Limits,
    MemifClient,
    Memory,
    MemoryOffered,
    MemoryWanted,
    RegionAdded,
    RingAdded,
)
from forwarder.dataplane.memif_listener import MemifListener, MemifListeners
from forwarder.dataplane.memif_socket import MemifChannel, open_control_socket, socket_address
from forwarder.dataplane.spec import MemifPortSpec, Role
from forwarder.errors import DataplaneError, RemoteProtocolError

log = logging.getLogger(__name__)

_jitter = random.Random()  # noqa: S311 - it spreads retries, it hides nothing

KNOCK_FIRST_S: Final = 0.005
KNOCK_LONGEST_S: Final = 2.0
KNOCK_PART: Final = 1 / 16
"""Pauses while nobody listens: the shortest, the longest, and which part of the time since we began."""
RETRY_FIRST_S: Final = 0.01
RETRY_LONGEST_S: Final = 1.0
"""Pauses between connections that did not last, to one server that was there all the while."""
RETRY_LEAST_S: Final = 0.01
"""The shortest pause after such a connection, however often a server makes its file anew."""
LASTING_S: Final = 1.0
"""A connection that was up this long ended for a new reason: try again at once."""


class MemifMemory(Protocol):
    """The port's side of a connection: what it does with shared memory."""

    def check_region(self, fd: int, size: int) -> None:
        """Raises RemoteProtocolError unless `fd` may be mapped as a region of `size` bytes."""
        ...

    def check_ring(self, fd: int) -> None:
        """Raises RemoteProtocolError unless `fd` is an eventfd."""
        ...

    def allocate(self, *, to_server_rings: int, to_client_rings: int, log2_ring_size: int) -> Memory:
        """Makes regions, rings and eventfds for a new connection; the caller owns the descriptors."""
        ...

    def attach(self, memory: Memory) -> None:
        """Maps `memory` and lets frames pass; owns its descriptors from here on, also when it fails.

        Raises RemoteProtocolError when the rings are not what they should be, DataplaneError when
        the memory cannot be mapped.
        """
        ...

    async def detach(self) -> None:
        """Stops frames; unmaps and closes once no worker looks at the memory any more."""
        ...


class MemifLink:
    """The life of one memif port's connection. `start` it, and `close` it in any case."""

    def __init__(
        self,
        spec: MemifPortSpec,
        memory: MemifMemory,
        *,
        listeners: MemifListeners | None = None,
        files: FileWatch | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Does nothing yet. Ports that share `listeners` can share a listening socket."""
        self.interface = Interface(interface_id=spec.interface_id, mode=spec.mode, secret=spec.secret, name=spec.name)
        self.connections = 0
        """How often the link has come up."""
        self.last_end = ""
        """Why it went down, or did not come up, the last time."""
        self._spec = spec
        self._memory = memory
        self._listeners = listeners or MemifListeners(limits)
        self._files = files or FileWatch()
        self._limits = limits or Limits()
        self._listener: MemifListener | None = None
        self._channel: MemifChannel | None = None
        self._claimed = LeanEvent()
        self._up = LeanEvent()
        self._stopping = LeanEvent()
        self._started_anew = False
        """Nobody listened for a while, or on another file than now: whoever listens has ended no connection yet."""
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Frames can pass."""
        return self._up.is_set()

    async def wait_connected(self) -> None:
        """Waits until frames can pass."""
        await self._up.wait()

    async def start(self) -> None:
        """Listens, or begins to connect; does not wait for the peer.

        Raises DataplaneError when the address cannot be used.
        """
        if self._spec.role is Role.SERVER:
            self._listener = await self._listeners.join(self._spec.address, self._spec.netns, self)
            work = self._serve()
        else:
            work = self._connect(socket_address(self._spec.address))
        self._task = asyncio.get_running_loop().create_task(work, name=f"memif {self._spec.address}")
        self._task.add_done_callback(self._report)

    async def close(self, reason: str = "closed") -> None:
        """Tells the peer, and returns when nothing is mapped, listening or running any more.

        A caller that is cancelled meanwhile gets its cancellation afterwards.
        """
        self._stopping.set()
        self._claimed.set()
        if self._listener is not None:
            self._listeners.leave(self._listener, self)
            self._listener = None
        self.disconnect(reason)
        cancelled: asyncio.CancelledError | None = None
        while self._task is not None and not self._task.done():
            try:
                await asyncio.wait({self._task})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def disconnect(self, reason: str) -> None:
        """Ends the present connection, if there is one, telling the peer why; the link then tries anew."""
        if self._channel is not None:
            self._channel.disconnect(reason)

    def claim(self, channel: MemifChannel, event: InterfaceChosen) -> None:
        """Takes a peer that the listener has admitted; raises RemoteProtocolError while there is another."""
        if self._channel is not None:
            # The present peer may have gone already without our having read it.
            self._channel.poll()
            if not self._channel.closed:
                raise RemoteProtocolError("already connected")
        log.debug("memif %s: taken by %s", self._spec.address, event.peer)
        channel.inspect = self._inspect
        self._channel = channel
        self._claimed.set()

    async def _serve(self) -> None:
        """Runs one claimed connection after the other."""
        followed: MemifChannel | None = None
        while not self._stopping.is_set():
            await self._claimed.wait()
            self._claimed.clear()
            if self._channel is not None and self._channel is not followed:
                followed = self._channel
                await self._run(followed)

    async def _connect(self, target: bytes) -> None:
        """Makes one connection after the other."""
        pause_s = 0.0
        while not self._stopping.is_set():
            sock = await self._reach(target)
            if sock is None:
                return
            if self._started_anew:
                pause_s = 0.0
            self._started_anew = False
            client = MemifClient(
                self.interface,
                now=asyncio.get_running_loop().time(),
                log2_ring_size=self._spec.log2_ring_size,
                limits=self._limits,
            )
            self._channel = MemifChannel(sock, client)
            if await self._run(self._channel) >= LASTING_S:
                pause_s = 0.0
                continue
            pause_s = min(max(RETRY_FIRST_S, 2 * pause_s), RETRY_LONGEST_S)
            await self._rest(_less_a_part(pause_s))

    async def _rest(self, pause_s: float) -> None:
        """Waits for `pause_s`, or until the socket's file appears anew."""
        if pause_s <= RETRY_LEAST_S:
            await self._wait_stopping(pause_s)
            return
        with self._appearing() as appeared:
            await self._wait_stopping(RETRY_LEAST_S)
            if not self._stopping.is_set():
                await self._wait_stopping(pause_s - RETRY_LEAST_S, or_event=appeared)
            self._started_anew = appeared.is_set()

    async def _reach(self, target: bytes) -> socket.socket | None:
        """Returns a connected socket as soon as somebody listens; None when the link is closed before."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        sock: socket.socket | None = None
        try:
            while not self._stopping.is_set():
                with self._appearing() as appeared:
                    while not self._stopping.is_set() and not appeared.is_set():
                        try:
                            sock = sock or await open_control_socket(self._spec.netns)
                            if self._stopping.is_set():
                                return None
                            sock.connect(target)
                        except OSError as error:
                            self._started_anew |= error.errno in (errno.ENOENT, errno.ECONNREFUSED)
                            self._note_end(f"cannot connect: {error.strerror or error}")
                        else:
                            connected, sock = sock, None
                            return connected
                        pause_s = _less_a_part(knock_pause_s(loop.time() - since))
                        await self._wait_stopping(pause_s, or_event=appeared)
                # It is bound, and will be listened on in a moment.
                since = loop.time()
                await self._wait_stopping(0.0005)
            return None
        finally:
            if sock is not None:
                sock.close()

    def _appearing(self) -> AbstractContextManager[LeanEvent]:
        """Lends an event that is set when the socket's file appears; an abstract socket cannot be watched."""
        if self._spec.address.startswith("@"):
            return nullcontext(LeanEvent())
        return self._files.appearing(self._spec.address)

    async def _run(self, channel: MemifChannel) -> float:
        """Follows `channel` from its first event to its end; returns how long the link was up, in seconds."""
        loop = asyncio.get_running_loop()
        attached = False
        own: Memory | None = None
        up_since = loop.time()
        try:
            while not isinstance(event := await channel.next_event(), Disconnected):
                try:
                    match event:
                        case MemoryWanted():
                            own = self._memory.allocate(
                                to_server_rings=event.to_server_rings,
                                to_client_rings=event.to_client_rings,
                                log2_ring_size=event.log2_ring_size,
                            )
                            channel.offer(own)
                        case MemoryOffered():
                            self._memory.attach(event.memory)
                            attached = True
                            channel.accept()
                        case Established():
                            if own is not None:
                                memory, own = own, None
                                self._memory.attach(memory)
                                attached = True
                            up_since = loop.time()
                            self._note_up(event)
                except (RemoteProtocolError, DataplaneError) as error:
                    channel.disconnect(str(error))
            self._note_end(event.reason)
        finally:
            was_up = self._up.is_set()
            self._up.clear()
            channel.disconnect("closed")
            if own is not None:
                own.close()
            if attached:
                await self._memory.detach()
        return loop.time() - up_since if was_up else 0.0

    def _inspect(self, event: RegionAdded | RingAdded) -> None:
        match event:
            case RegionAdded(region=region):
                self._memory.check_region(region.fd, region.size)
            case RingAdded(ring=ring):
                self._memory.check_ring(ring.fd)

    async def _wait_stopping(self, longest_s: float, *, or_event: LeanEvent | None = None) -> None:
        """Waits until the link is closed, or the event is set, or the time is up."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, or_event) if event is not None]
        try:
            await asyncio.wait(waits, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def _note_up(self, event: Established) -> None:
        self._up.set()
        self.connections += 1
        self.last_end = ""
        log.info("memif %s: connected to %s", self._spec.address, event.peer_interface or "an unnamed peer")

    def _note_end(self, reason: str) -> None:
        """Logs an end once, however often the same happens again."""
        if reason != self.last_end:
            log.info("memif %s: not connected: %s", self._spec.address, reason)
        self.last_end = reason

    def _report(self, task: asyncio.Task[None]) -> None:
        """Tells of a bug that ended the link's task."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("memif %s: the link stopped working", self._spec.address, exc_info=error)


def knock_pause_s(waited_s: float) -> float:
    """Returns the pause before the next try when nobody has listened for `waited_s` seconds."""
    return min(max(KNOCK_FIRST_S, waited_s * KNOCK_PART), KNOCK_LONGEST_S)


def _less_a_part(pause_s: float) -> float:
    """Spreads what would otherwise happen everywhere at once."""
    return pause_s * _jitter.uniform(0.75, 1.0)
