"""The beginning of a connection: TLS, and who the peer is."""

import asyncio
import contextlib
import socket

from forwarder.errors import RemoteProtocolError
from forwarder.rpc import refusal
from forwarder.rpc.stream import Plain, Stream
from forwarder.rpc.tls import TlsIdentity
from forwarder.rpc.transport import FILES_AT_ONCE, Transport


async def secured(transport: Transport, identity: TlsIdentity | None, *, server_side: bool) -> Stream:
    """Makes the handshake on a new connection and finds out who the peer is; without an identity, neither.

    A peer that is refused is told why. Raises RemoteProtocolError that says why there is no
    connection, ConfigError if our own identity cannot be used, and OSError.
    """
    if identity is None:
        return Plain()
    stream = identity.stream(server_side=server_side)
    data = b""
    try:
        while not stream.handshake(data):
            await _write(transport, stream.output())
            data = await read(transport)
            if not data:
                raise ConnectionResetError("the peer closed the connection during the TLS handshake")
            if data.startswith(refusal.PREFACE):
                await _write(transport, refusal.tell("this server wants TLS", server_side=True))
            if len(transport.received) > FILES_AT_ONCE:  # those of the first RPC may come with the last bytes
                raise RemoteProtocolError("the peer sends open files before it has proved who it is")
        try:
            transport.peer = identity.peer(stream)
        except RemoteProtocolError as error:
            await _write(transport, stream.output() + stream.send(refusal.tell(str(error), server_side=server_side)))
            raise
    finally:
        with contextlib.suppress(OSError):
            await _write(transport, stream.output())  # the handshake's last bytes, or an alert
    return stream


async def read(transport: Transport) -> bytes:
    """Waits for bytes of the peer; none are the end of the stream. Raises what `Transport.read` raises."""
    while True:
        try:
            return transport.read()
        except BlockingIOError:
            await readable(transport.socket)


async def readable(waited_for: socket.socket) -> None:
    """Waits until there is something to read, or to accept."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(waited_for, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(waited_for)


async def _write(transport: Transport, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    left = memoryview(data)
    while left:
        try:
            left = left[transport.write(left) :]
        except BlockingIOError:
            ready = loop.create_future()
            loop.add_writer(transport.socket, _set, ready)
            try:
                await ready
            finally:
                loop.remove_writer(transport.socket)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
