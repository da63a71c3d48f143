"""The outer side of a server: accepts peers, and gives gRPC a connection for each that may come in."""

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from forwarder.errors import ConfigError, RemoteProtocolError
from forwarder.rpc.handshake import read, secured
from forwarder.rpc.relay import Relay
from forwarder.rpc.stream import Stream
from forwarder.rpc.tls import TlsIdentity
from forwarder.rpc.transport import Transport

HANDSHAKE_S: Final = 20.0
"""How long a peer may take for its handshake. Those of the mesh give up on us before that."""
HANDSHAKES: Final = 512
"""How many may be in the middle of theirs; with more, the one that began first has to go."""
ACCEPTED_AT_ONCE: Final = 16
"""Then it is the turn of the connections that are there."""
DRAIN_S: Final = 1.0
"""How long a peer that was refused may take to read why."""
_FULL_S: Final = 0.005
_REST_S: Final = 0.1
"""How long a listener rests when the process has no descriptor left."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger(__name__)


class Front:
    """Relays between peers and the gRPC server that listens on `inner`, a unix socket in a directory of ours."""

    def __init__(self, inner: Path, identity: TlsIdentity | None) -> None:
        self._inner = inner
        self._identity = identity
        self._names = itertools.count(1)
        self._shaking: dict[asyncio.Task[None], None] = {}
        """Connections in their handshake, the oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: dict[str, Transport] = {}

    def transport(self, grpc_peer: str) -> Transport | None:
        """Returns the connection that an RPC came by, from what gRPC says of its peer."""
        return self._transports.get(grpc_peer.rpartition("/")[2])

    @contextmanager
    def accepting(self, listeners: Sequence[socket.socket]) -> Iterator[None]:
        """Accepts connections on listening, non-blocking sockets for as long as the context lasts; closes them then."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            loop.add_reader(listener, self._accept, listener)
        try:
            yield
        finally:
            for listener in listeners:
                loop.remove_reader(listener)
                listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connected, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.warning("no connection can be accepted for %g s: %s", _REST_S, error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(_REST_S, self._rested, listener)
                return
            self._begin(connected)

    def _rested(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def aclose(self) -> None:
        """Ends every connection."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, connected: socket.socket) -> None:
        transport = Transport(connected)
        task = asyncio.get_running_loop().create_task(self._serve(transport), name="a peer's connection")
        self._tasks.add(task)
        self._shaking[task] = None

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._shaking.pop(task, None)
            transport.close()  # cancelled before it had begun, it has closed nothing

        task.add_done_callback(ended)
        if len(self._shaking) > HANDSHAKES:
            oldest = next(iter(self._shaking))
            del self._shaking[oldest]
            oldest.cancel()
            log.warning("a connection was given up: more than %d are in their handshake", HANDSHAKES)

    async def _serve(self, transport: Transport) -> None:
        task = asyncio.current_task()
        assert task is not None
        name = str(next(self._names))
        relay = None
        try:
            admitted = await self._admitted(transport, name)
            self._shaking.pop(task, None)
            if admitted is not None:
                self._transports[name] = transport
                relay = Relay(transport, *admitted)
                if broken := await asyncio.shield(relay.done):
                    log.info("the connection%s broke: %s", _of(transport), broken)
        finally:
            self._transports.pop(name, None)
            if relay is not None:
                relay.close()
            transport.close()

    async def _admitted(self, transport: Transport, name: str) -> tuple[Stream, socket.socket] | None:
        """Makes the handshake, then the connection to gRPC; None, and a line in the log, if there will be none."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                stream = await secured(transport, self._identity, server_side=True)
                return stream, await self._to_grpc(name)
        except (RemoteProtocolError, ConfigError) as error:
            log.warning("a connection%s was refused: %s", _of(transport), error)
            await _drain(transport)
        except TimeoutError:
            log.warning("a connection%s was given up: no handshake within %g s", _of(transport), HANDSHAKE_S)
        except OSError as error:
            log.info("a connection%s broke during its handshake: %s", _of(transport), error.strerror or error)
        return None

    async def _to_grpc(self, name: str) -> socket.socket:
        """Connects to the server; `name` is what gRPC will call the peer of this connection's RPCs."""
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            inner.setblocking(False)
            path = self._inner.with_name(name)
            inner.bind(str(path))
            path.unlink()  # the socket keeps its name
            while True:
                try:
                    inner.connect(str(self._inner))
                except BlockingIOError:  # its backlog is full
                    await asyncio.sleep(_FULL_S)
                else:
                    return inner
        except BaseException:
            inner.close()
            raise


async def _drain(transport: Transport) -> None:
    """Lets a peer that was refused read why: a socket that is closed with bytes unread takes back its own."""
    with suppress(OSError, TimeoutError, RemoteProtocolError):
        transport.socket.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(DRAIN_S):
            while await read(transport):
                pass


def _of(transport: Transport) -> str:
    if transport.peer is not None:
        return f" of {transport.peer.identity}"
    try:
        address = transport.socket.getpeername()
    except OSError:
        return ""
    return f" from {address[0]}:{address[1]}" if isinstance(address, tuple) else ""
