"""Bytes from a peer's socket to gRPC's and back: TLS ends here, open files are taken out and put in.

    peer ◀── Transport (recvmsg, sendmsg) ── Stream (TLS or plain) ── socket ──▶ gRPC, plaintext HTTP/2

gRPC for Python cannot pass open files, cannot verify a SPIFFE peer, and cannot say who it is before
it sends metadata. So it gets a private unix socket for each connection, and this stands between.
Each way reads only when what it read before has been written: a slow reader slows its own writer
down, and nobody else.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from forwarder.errors import RemoteProtocolError
from forwarder.rpc import refusal
from forwarder.rpc.stream import Stream
from forwarder.rpc.transport import READ_BYTES, Transport

MOST_OWED: Final = 1 << 20
"""Bytes that TLS itself has to say and that a peer leaves unread, KeyUpdates above all, before it is cut off."""
LINGER_S: Final = 2.0
"""How long one way may go on after the other has ended."""


class Relay:
    """One connection, both ways. Owns both sockets, and closes them when it ends, whatever the reason."""

    def __init__(self, transport: Transport, stream: Stream, inner: socket.socket) -> None:
        """Begins at once. `stream` has its handshake behind it; `inner` is non-blocking and leads to gRPC."""
        self.transport = transport
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Set to what broke the connection when it ends: empty if the two sides had said all."""
        self._stream = stream
        self._inner = inner
        self._silent = True
        self._linger: asyncio.TimerHandle | None = None
        self._inward = _Way(self, transport.socket, inner, self._from_peer, inner.send)
        self._outward = _Way(self, inner, transport.socket, self._from_grpc, transport.write)
        try:
            self._inward.put(self._decoded(b""))  # the handshake's last bytes may have been followed by more
        except RemoteProtocolError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Ends the connection at once."""
        with contextlib.suppress(OSError):
            if alert := self._stream.output():
                self.transport.write(memoryview(alert))
        left = isinstance(error, (BrokenPipeError, ConnectionResetError))
        self._end("" if left else str(error))

    def close(self) -> None:
        """Ends the connection at once, for no fault of anybody's."""
        self._end("")

    def _from_peer(self) -> bytes:
        data = self.transport.read()
        if not data:
            self._inward.ending = True
        return self._decoded(data)

    def _decoded(self, data: bytes) -> bytes:
        plaintext = self._stream.receive(data)
        self._outward.put(self._stream.output())
        if self._stream.ended:
            self._inward.ending = True
        if plaintext and self._silent:
            self._silent = False
            if reason := refusal.told(plaintext):
                raise RemoteProtocolError("the peer refused", detail=reason)
        return plaintext

    def _from_grpc(self) -> bytes:
        data = self._inner.recv(READ_BYTES)
        if not data:
            self._outward.ending = True
            return self._stream.end()
        return self._stream.send(data)

    def way_ended(self, sink: socket.socket) -> None:
        """Tells the far end of one way that this was all; the other way may finish."""
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if self._inward.ended and self._outward.ended:
            self._end("")
        else:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._end, "")

    def _end(self, reason: str) -> None:
        if self.done.done():
            return
        if self._linger is not None:
            self._linger.cancel()
        self._inward.stop()
        self._outward.stop()
        self._inner.close()
        self.transport.close()
        self.done.set_result(reason)


class _Way:
    """One direction: waits for its source to have something, or for its sink to take what is left."""

    def __init__(
        self,
        relay: Relay,
        source: socket.socket,
        sink: socket.socket,
        read: Callable[[], bytes],
        write: Callable[[memoryview], int],
    ) -> None:
        """`read` returns bytes for the sink, or none; it raises BlockingIOError when the source has nothing."""
        self.ending = False
        """What is left is the last."""
        self.ended = False
        self._relay = relay
        self._source = source
        self._sink = sink
        self._read = read
        self._write = write
        self._left = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._readable)

    def put(self, data: bytes) -> None:
        """Sends bytes that `read` did not return, after those that are left.

        Raises RemoteProtocolError if the far end makes us say much, and does not read.
        """
        if len(self._left) > MOST_OWED:
            raise RemoteProtocolError("the peer does not read what it makes TLS answer")
        if data:
            self._left = memoryview(bytes(self._left) + data)
            self._flush()

    def stop(self) -> None:
        """Waits for nothing any more."""
        self.ended = True
        self._left = memoryview(b"")
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)

    def _readable(self) -> None:
        try:
            self._left = memoryview(self._read())
        except BlockingIOError:
            return
        except (OSError, RemoteProtocolError) as error:
            self._relay.fail(error)
            return
        self._flush()

    def _flush(self) -> None:
        if self.ended:
            return
        if self._left:
            try:
                self._left = self._left[self._write(self._left) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._relay.fail(error)
                return
        if self._left:
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._sink, self._writable)
        elif self.ending:
            self.stop()
            self._relay.way_ended(self._sink)

    def _writable(self) -> None:
        self._flush()
        if not self._left and not self.ended:
            self._loop.remove_writer(self._sink)
            self._loop.add_reader(self._source, self._readable)
