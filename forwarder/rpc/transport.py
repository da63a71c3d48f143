"""One socket of the mesh: bytes, and on a unix socket open files beside them.

A file travels as SCM_RIGHTS (unix(7)) with a byte of the stream; it adds none of its own. It
arrives before or with the bytes that come after it was enqueued, never later.

Source: edwarnicke/grpcfd.
"""

import array
import asyncio
import os
import socket
from collections import deque
from typing import Final

from forwarder.api.x509 import Peer
from forwarder.errors import RemoteProtocolError
from forwarder.rpc.descriptor_table import MOST, DescriptorTable

READ_BYTES: Final = 65536
FILES_AT_ONCE: Final = 64
"""Files in one message: grpcfd has room for as many, and loses more."""
_INT_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(FILES_AT_ONCE * _INT_BYTES)


class Transport:
    """Owns a connected, non-blocking socket and every open file that waits on either way."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.peer: Peer | None = None
        """Who is at the other end, once it has proved that."""
        self.received = DescriptorTable()
        self.carries_files = connected.family == socket.AF_UNIX
        if not self.carries_files:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._to_send: deque[int] = deque()
        self._expiry: asyncio.TimerHandle | None = None

    def enqueue(self, path: str) -> tuple[int, int]:
        """Opens a file and has it sent with the next bytes; returns its device and inode number.

        It is opened without access to its content (O_PATH). Raises OSError.
        """
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        if not self.carries_files or self.socket.fileno() < 0 or len(self._to_send) >= MOST:
            os.close(descriptor)
        else:
            self._to_send.append(descriptor)
        return found.st_dev, found.st_ino

    def read(self) -> bytes:
        """Reads what is there, empty at the end of the stream; files go to `received` before this returns.

        Raises BlockingIOError when there is nothing, OSError, and RemoteProtocolError for files that
        were lost or are too many.
        """
        if not self.carries_files:
            return self.socket.recv(READ_BYTES)
        data, ancillary, flags, _ = self.socket.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        if ancillary:
            loop = asyncio.get_running_loop()
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    whole = len(payload) - len(payload) % _INT_BYTES
                    self.received.add(array.array("i", payload[:whole]), loop.time())
            if self._expiry is None:
                self._expire()
        if flags & socket.MSG_CTRUNC:
            raise RemoteProtocolError(
                f"open files of the peer were lost: more than {FILES_AT_ONCE} in one message, or no room for them"
            )
        return data

    def write(self, data: memoryview) -> int:
        """Writes some of `data`, which is not empty, and the files that wait; returns how many bytes went.

        Raises BlockingIOError when there is no room, and OSError.
        """
        written = 0
        while self._to_send and written < len(data):
            files = [self._to_send[i] for i in range(min(len(self._to_send), FILES_AT_ONCE))]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
            # A byte each time, all that wait go before the rest of these bytes: but with the last, so that
            # the peer has one message to read.
            end = written + 1 if len(files) < len(self._to_send) else len(data)
            try:
                written += self.socket.sendmsg([data[written:end]], rights)
            except BlockingIOError:
                if written:
                    return written
                raise
            for descriptor in files:
                self._to_send.popleft()
                os.close(descriptor)
        if written == len(data):
            return written
        try:
            return written + self.socket.send(data[written:])
        except BlockingIOError:
            if written:
                return written
            raise

    def close(self) -> None:
        """Closes the socket and the files that wait."""
        self.socket.close()
        self.received.close()
        if self._expiry is not None:
            self._expiry.cancel()
        while self._to_send:
            os.close(self._to_send.popleft())

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        again = self.received.expire(loop.time())
        self._expiry = None if again is None else loop.call_at(again, self._expire)
