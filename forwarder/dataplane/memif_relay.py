"""Joins two memif applications so that they share memory directly: relays their control messages.

```
 application ──connect──▶ relay ──connect──▶ application
      │  messages and descriptors, both ways   │
      └────────────── memory ──────────────────┘
```

Where one application connects the relay listens; for each connection it makes one to where the
other listens. A message of 128 bytes goes on with the descriptor that came with it, in order, one
message in hand each way; the kernel's buffers, made small, hold the rest. What the messages say is
the applications' business. Once they are connected no frame passes through this process; when it
ends the sockets close, and the applications know that the other is gone.
"""

import array
import asyncio
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from forwarder.dataplane.memif_acceptor import MemifAcceptor, cannot_listen
from forwarder.dataplane.memif_messages import MESSAGE_BYTES
from forwarder.dataplane.memif_socket import open_control_socket, socket_address

log = logging.getLogger(__name__)

APPLICATIONS_MAX: Final = 8
"""Connections to one relay at a time; more are closed at once. Memif needs one, and another that replaces it."""
RETRY_FIRST_S: Final = 0.01
RETRY_LONGEST_S: Final = 1.0
_SEND_BUFFER_BYTES: Final = 16 << 10
"""About twenty messages, each with a descriptor, wait for a peer that does not read."""
_MESSAGES_PER_WAKE: Final = 32
_DISCARDED_MAX: Final = 256
_UCRED_BYTES: Final = 12
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_UCRED_BYTES) + socket.CMSG_SPACE(array.array("i").itemsize)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemifTarget:
    """Where an application listens."""

    address: str
    netns: int | None = None
    """Descriptor of the namespace an abstract socket lives in; None for our own. Borrowed."""


class MemifRelay:
    """One listening socket, and the applications that have connected to it. See `open_memif_relay`."""

    def __init__(self, address: str, sock: socket.socket) -> None:
        """Listens with `sock` and owns it. Raises DataplaneError when the address cannot be bound."""
        self.address = address
        self._target: MemifTarget | None = None
        self._waiting: list[socket.socket] = []
        """Connected while there was no target."""
        self._callers: dict[_Caller, asyncio.Task[None]] = {}
        self._acceptor = MemifAcceptor(address, sock, self._accepted)

    @property
    def joined(self) -> int:
        """How many applications are connected to the other one."""
        return sum(caller.joined for caller in self._callers)

    @property
    def connections(self) -> int:
        """How many applications are connected to us, joined or waiting."""
        return len(self._callers) + len(self._waiting)

    @asynccontextmanager
    async def towards(self, target: MemifTarget) -> AsyncIterator[None]:
        """Joins whoever connects to `target`, for as long as the context lasts; then they are parted."""
        self._target = target
        waiting, self._waiting = self._waiting, []
        for sock in waiting:
            self._start(sock, target)
        try:
            yield
        finally:
            self._target = None
            await self._part()

    async def close(self) -> None:
        """Stops listening; who is connected sees the end of its connection."""
        self._acceptor.close()
        for sock in self._waiting:
            sock.close()
        self._waiting.clear()
        await self._part()

    async def _part(self) -> None:
        """Ends every connection; a cancellation of the caller comes afterwards."""
        tasks = list(self._callers.values())
        for caller in self._callers:
            caller.end("the vWire was taken apart")
        cancelled: asyncio.CancelledError | None = None
        while any(not task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _accepted(self, sock: socket.socket) -> None:
        for caller in list(self._callers):
            # Whoever this one replaces may have gone without our having read it.
            caller.poll()
        self._waiting = [other for other in self._waiting if not _gone(other)]
        if self.connections >= APPLICATIONS_MAX:
            # Not a warning: whoever connects without pause would fill the log.
            log.debug("memif relay %s: more than %d connections: closed one", self.address, APPLICATIONS_MAX)
            sock.close()
        elif self._target is None:
            self._waiting.append(sock)
        else:
            self._start(sock, self._target)

    def _start(self, sock: socket.socket, target: MemifTarget) -> None:
        caller = _Caller(sock, target, self.address)
        task = asyncio.get_running_loop().create_task(caller.run(), name=f"memif relay {self.address}")
        self._callers[caller] = task
        task.add_done_callback(lambda done: self._forget(caller, done))

    def _forget(self, caller: "_Caller", task: asyncio.Task[None]) -> None:
        del self._callers[caller]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("memif relay %s: a connection stopped working", self.address, exc_info=error)


class _Caller:
    """One application that connected, from then to its end."""

    def __init__(self, sock: socket.socket, target: MemifTarget, address: str) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._sock = sock
        self._target = target
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._ways: list[_OneWay] = []
        self._why = ""

    @property
    def joined(self) -> bool:
        return bool(self._ways) and not self._ended.is_set()

    def end(self, why: str) -> None:
        """Ends it, the first time."""
        if not self._ended.is_set():
            self._why = why
            self._ended.set()

    def poll(self) -> None:
        """Takes in what has arrived, without waiting; an end is passed on before this returns."""
        for way in self._ways:
            way.move()
        if not self._ways and _gone(self._sock):
            self.end("the application has gone")
        if self._ended.is_set():
            self._close()

    def _look(self) -> None:
        """Ends it when the application has gone; whatever else it does is for the other one to hear."""
        self._loop.remove_reader(self._sock)
        if _gone(self._sock):
            self.end("the application has gone")

    async def run(self) -> None:
        """Connects to the other application and relays until one of both has gone."""
        try:
            other = await self._connected()
            if other is None:
                return
            if self._ended.is_set():
                other.close()
                return
            log.info("memif relay %s: joined to %s", self._address, self._target.address)
            self._ways = [
                _OneWay(self._sock, other, "the application", self.end),
                _OneWay(other, self._sock, "the endpoint", self.end),
            ]
            for way in self._ways:
                way.move()
            await self._ended.wait()
            log.info("memif relay %s: parted: %s", self._address, self._why)
        finally:
            self._close()

    async def _connected(self) -> socket.socket | None:
        """Connects to the target, again and again while the application is there; None when it is not."""
        jitter = random.Random()  # noqa: S311 - it spreads retries, it hides nothing
        pause_s = RETRY_FIRST_S
        told = 0
        self._loop.add_reader(self._sock, self._look)
        while not self._ended.is_set():
            try:
                return await _connect(self._target)
            except OSError as error:
                if error.errno != told:
                    log.info("memif relay %s: cannot connect to %s: %s", self._address, self._target.address, error)
                told = error.errno or 0
            try:
                async with asyncio.timeout(pause_s * jitter.uniform(0.5, 1.0)):
                    await self._ended.wait()
            except TimeoutError:
                pause_s = min(2 * pause_s, RETRY_LONGEST_S)
        return None

    def _close(self) -> None:
        """Closes both sockets; does nothing the second time."""
        self._ended.set()
        for way in self._ways:
            way.stop()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
        for sock in (self._sock, *(way.source for way in self._ways)):
            if sock.fileno() >= 0:
                _discard(sock)
                sock.close()


class _OneWay:
    """Carries messages from one socket to another, one in hand at most."""

    def __init__(self, source: socket.socket, sink: socket.socket, speaker: str, ended: Callable[[str], None]) -> None:
        """`ended` is told when `source` has no more, or breaks the form of the protocol."""
        self.source = source
        self._sink = sink
        self._speaker = speaker
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._held: tuple[bytes, list[int]] | None = None
        self._stopped = False
        self._loop.add_reader(source, self.move)

    def move(self) -> None:
        """Moves what there is, without waiting, until the source is empty or the sink full."""
        for _ in range(_MESSAGES_PER_WAKE):
            if self._stopped or not (self._held or self._receive()) or not self._send():
                return

    def stop(self) -> None:
        """Moves nothing more; closes the descriptors in hand."""
        if self._stopped:
            return
        self._stopped = True
        self._loop.remove_reader(self.source)
        self._loop.remove_writer(self._sink)
        self._drop()

    def _receive(self) -> bool:
        """Takes one message in hand; False when there is none."""
        try:
            data, ancillary, flags, _ = self.source.recvmsg(
                MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._end(f"{self._speaker}: {error.strerror}")
            return False
        descriptors = _descriptors(ancillary)
        self._held = data, descriptors
        if not data:
            self._end(f"{self._speaker} has gone")
        elif len(data) < MESSAGE_BYTES or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
            self._end(f"{self._speaker} sent something else than {MESSAGE_BYTES} bytes and a descriptor")
        else:
            return True
        return False

    def _send(self) -> bool:
        """Hands the message on; False when that has to wait, and then goes on by itself."""
        assert self._held is not None
        data, descriptors = self._held
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._sink.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self._sink, self._go_on)
            return False
        except OSError as error:
            self._end(f"{self._speaker} cannot be heard: {error.strerror}")
            return False
        self._drop()
        return True

    def _go_on(self) -> None:
        self._loop.remove_writer(self._sink)
        self._loop.add_reader(self.source, self.move)
        self.move()

    def _end(self, why: str) -> None:
        self.stop()
        self._ended(why)

    def _drop(self) -> None:
        """Closes our copies of the descriptors in hand."""
        held, self._held = self._held, None
        for descriptor in held[1] if held is not None else ():
            os.close(descriptor)


async def _connect(target: MemifTarget) -> socket.socket:
    sock = await open_control_socket(target.netns)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        sock.connect(socket_address(target.address))
    except BaseException:
        sock.close()
        raise
    return sock


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    numbers = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) // numbers.itemsize * numbers.itemsize])
    return list(numbers)


def _gone(sock: socket.socket) -> bool:
    """Says whether the peer has closed; looks without taking anything."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def _discard(sock: socket.socket) -> None:
    """Reads what nobody will read.

    A unix socket closed with unread messages resets its peer, which may then not read what was said last.
    """
    for _ in range(_DISCARDED_MAX):
        try:
            data, ancillary, _, _ = sock.recvmsg(
                MESSAGE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except OSError:
            return
        for descriptor in _descriptors(ancillary):
            os.close(descriptor)
        if not data:
            return


@asynccontextmanager
async def open_memif_relay(address: str, netns: int | None) -> AsyncIterator[MemifRelay]:
    """Listens at `address`, in the namespace `netns` refers to, for as long as the context lasts.

    Who connects waits until the relay goes `towards` a target. Raises DataplaneError when the
    address cannot be used; its errno is EADDRINUSE when somebody else has it.
    """
    try:
        sock = await open_control_socket(netns)
    except OSError as error:
        raise cannot_listen(address, error) from error
    relay = MemifRelay(address, sock)
    try:
        yield relay
    finally:
        await relay.close()
