"""Carries memif's control channel over unix sockets: one channel, and the addresses it is found at.

A channel feeds a state machine (`memif_control`) with what its socket receives, hands on the
events, sends the answers, and keeps the machine's timer. Who listens and who connects, and what
becomes of the memory, is decided in `memif_listener` and `memif_link`.
"""

import array
import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from forwarder.dataplane.memif_control import (
    Disconnected,
    Established,
    InterfaceChosen,
    MemifClient,
    MemifServer,
    Memory,
    MemoryOffered,
    MemoryWanted,
    Outgoing,
    RegionAdded,
    RingAdded,
    State,
)
from forwarder.dataplane.memif_messages import MESSAGE_BYTES
from forwarder.errors import DataplaneError, RemoteProtocolError
from forwarder.netns import run_in

log = logging.getLogger(__name__)

SUN_PATH_BYTES: Final = 108
"""sizeof(sockaddr_un.sun_path), linux/un.h"""
_FDS_MAX: Final = 253
"""SCM_MAX_FD: most descriptors that one message can carry. With room for all, none is lost unseen."""
_UCRED_BYTES: Final = 12
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_UCRED_BYTES) + socket.CMSG_SPACE(4 * _FDS_MAX)
_RECEIVE: Final = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_TRUNCATED: Final = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_SEND: Final = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RIGHTS: Final = (int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS))
"""Plain numbers: enum arithmetic took a twelfth of a connection's time."""
_MESSAGES_PER_WAKE: Final = 32
"""The most that is taken in, or thrown away, at once of a peer that talks without pause."""

StepEvent = MemoryOffered | MemoryWanted | Established | Disconnected
"""What a channel's owner awaits."""


def socket_address(address: str) -> bytes:
    """Returns the address for bind and connect: `@name` is an abstract one of exactly its length.

    Raises DataplaneError when it is empty or does not fit `sun_path`.
    """
    encoded = os.fsencode(address)
    if encoded.startswith(b"@"):
        encoded = b"\0" + encoded[1:]
        longest = SUN_PATH_BYTES
    else:
        longest = SUN_PATH_BYTES - 1  # a path ends in a zero
    if len(encoded) < (2 if encoded.startswith(b"\0") else 1) or b"\0" in encoded[1:]:
        raise DataplaneError(f"memif socket {address!r} is not a usable address", errno=errno.EINVAL)
    if len(encoded) > longest:
        raise DataplaneError(
            f"memif socket {address!r} has {len(encoded)} bytes, more than {longest}", errno=errno.ENAMETOOLONG
        )
    return encoded


async def open_control_socket(netns: int | None) -> socket.socket:
    """Makes a non-blocking socket of memif's kind in the namespace `netns`; None for our own.

    Raises OSError.
    """
    if netns is None:
        return _open_control_socket()
    return await run_in(netns, _open_control_socket, discard=socket.socket.close)


def _open_control_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


class MemifChannel:
    """One connection's socket and state machine.

    Must be made on the event loop's thread. InterfaceChosen, RegionAdded and RingAdded go to
    `choose` and `inspect` at once, before they are answered: raising RemoteProtocolError refuses.
    The other events come from `next_event`, in order. The end is always a Disconnected, and then
    the socket is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        end: MemifServer | MemifClient,
        *,
        choose: Callable[["MemifChannel", InterfaceChosen], None] | None = None,
    ) -> None:
        """Takes over `sock`, which must not block, and starts talking."""
        self.inspect: Callable[[RegionAdded | RingAdded], None] | None = None
        self.on_closed: Callable[[MemifChannel], None] | None = None
        self._sock = sock
        self._end = end
        self._choose = choose
        self._loop = asyncio.get_running_loop()
        # Lists: they are empty or hold a few, and an empty deque has 760 bytes.
        self._steps: list[StepEvent] = []
        self._arrived: asyncio.Future[None] | None = None
        self._unsent: list[Outgoing] = []
        self._waits_to_send = False
        self._timer: asyncio.TimerHandle | None = None
        # By number: asyncio looks up what it does not know yet with the text of the whole socket.
        # One message a wake-up: a client waits for each answer, and to look for a second costs as much as one.
        self._loop.add_reader(sock.fileno(), self._receive)
        self._advance()

    @property
    def closed(self) -> bool:
        """The connection has ended and its socket is closed."""
        return self._end.state is State.CLOSED

    async def next_event(self) -> StepEvent:
        """Waits for the next event; for one who waits. Whoever takes a MemoryOffered owns its descriptors."""
        while not self._steps:
            self._arrived = self._loop.create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        return self._steps.pop(0)

    def _tell(self, event: StepEvent) -> None:
        self._steps.append(event)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def accept(self) -> None:
        """Answers MemoryOffered: the memory is mapped. Does nothing if the connection has ended."""
        if not self.closed and isinstance(self._end, MemifServer):
            self._end.accept()
            self._advance()

    def offer(self, memory: Memory) -> None:
        """Answers MemoryWanted; the descriptors stay the caller's, open until this channel ends or is up."""
        if not self.closed and isinstance(self._end, MemifClient):
            self._end.offer(memory)
            self._advance()

    def disconnect(self, reason: str) -> None:
        """Tells the peer why, and closes. Does nothing if the connection has ended."""
        if not self.closed:
            self._end.disconnect(reason)
            self._advance()

    def poll(self) -> None:
        """Takes in what has arrived, without waiting; after this `closed` is up to date."""
        for _ in range(_MESSAGES_PER_WAKE):
            if self.closed or not self._receive():
                return

    def _receive(self) -> bool:
        """Feeds one message to the machine; returns False when there was none."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MESSAGE_BYTES, _ANCILLARY_BYTES, _RECEIVE)
        except BlockingIOError:
            return False
        except InterruptedError:
            return True
        except OSError as error:
            self._end.lost(f"control socket: {error.strerror}")
        else:
            fds: list[int] = []
            for level, kind, payload in ancillary:
                if (level, kind) == _RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(payload[: len(payload) // numbers.itemsize * numbers.itemsize])
                    fds.extend(numbers)
            self._end.receive(data, fds, truncated=bool(flags & _TRUNCATED))
        self._advance()
        return True

    def _advance(self) -> None:
        """Hands on events, then sends what is due, then sets the timer."""
        while (event := self._end.next_event()) is not None:
            match event:
                case InterfaceChosen() | RegionAdded() | RingAdded():
                    self._judge(event)
                case Disconnected():
                    self._drop_untaken_memory()
                    self._tell(event)
                case _:
                    self._tell(event)
        self._unsent.extend(self._end.messages_to_send())
        self._send()
        if self.closed:
            self._shut()
        else:
            self._set_timer()

    def _judge(self, event: InterfaceChosen | RegionAdded | RingAdded) -> None:
        """Asks our side; a refusal ends the connection with its text."""
        try:
            if isinstance(event, InterfaceChosen):
                if self._choose is not None:
                    self._choose(self, event)
            elif self.inspect is not None:
                self.inspect(event)
        except (RemoteProtocolError, DataplaneError) as error:
            self._end.disconnect(str(error))

    def _send(self) -> None:
        """Sends until done or the socket is full; then goes on when it can take more."""
        while self._unsent:
            message = self._unsent[0]
            rights = [(*_RIGHTS, array.array("i", message.fds))] if message.fds else []
            try:
                self._sock.sendmsg([message.data], rights, _SEND)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._unsent.clear()
                if not self.closed:
                    self._end.lost(f"control socket: {error.strerror}")
                    self._advance()
                    return
            else:
                del self._unsent[0]
        if bool(self._unsent) != self._waits_to_send and not self.closed:
            self._waits_to_send = bool(self._unsent)
            if self._waits_to_send:
                self._loop.add_writer(self._sock.fileno(), self._send)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _set_timer(self) -> None:
        deadline = self._end.deadline
        if self._timer is not None and (deadline is None or self._timer.when() != deadline):
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._timer is None:
            self._timer = self._loop.call_at(deadline, self._expire, deadline)

    def _expire(self, deadline: float) -> None:
        self._timer = None
        self._end.handle_timer(deadline)
        self._advance()

    def _drop_untaken_memory(self) -> None:
        """Closes the descriptors of a MemoryOffered that nobody has taken and nobody will."""
        kept: list[StepEvent] = []
        for event in self._steps:
            if isinstance(event, MemoryOffered):
                event.memory.close()
            else:
                kept.append(event)
        self._steps = kept

    def _shut(self) -> None:
        """Closes the socket; does nothing the second time."""
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.remove_reader(self._sock.fileno())
        if self._waits_to_send:
            self._loop.remove_writer(self._sock.fileno())
        # A unix socket closed with unread messages resets the peer, which may then never read
        # why. The descriptors in them are closed by the machine.
        for _ in range(_MESSAGES_PER_WAKE):
            if not self._discard():
                break
        self._sock.close()
        if self.on_closed is not None:
            self.on_closed(self)

    def _discard(self) -> bool:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(MESSAGE_BYTES, _ANCILLARY_BYTES, _RECEIVE)
        except OSError:
            return False
        for level, kind, payload in ancillary:
            if (level, kind) == _RIGHTS:
                for fd in memoryview(payload).cast("i"):
                    os.close(fd)
        return bool(data)
