"""Dialing: a channel to one server, connected when it is handed out."""

import asyncio
import itertools
import math
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

import grpc

from forwarder.api.x509 import Identity, Peer, load
from forwarder.errors import NextHopError, RemoteProtocolError
from forwarder.rpc import options
from forwarder.rpc.address import Address, Family
from forwarder.rpc.connect import connect, words
from forwarder.rpc.descriptors import Descriptors, PassThrough
from forwarder.rpc.files import KeptFiles
from forwarder.rpc.handshake import readable, secured
from forwarder.rpc.relay import Relay
from forwarder.rpc.socket_files import SocketFiles
from forwarder.rpc.stream import Stream
from forwarder.rpc.tls import TlsIdentity
from forwarder.rpc.transport import Transport

DIAL_TIMEOUT_S: Final = 0.75
"""What the programs of the mesh allow each other for connecting."""
SILENT: Final = "something listens but does not speak gRPC, or not as we do, with or without TLS"
_PAUSES_S: Final = (0.01, 0.02, 0.05, 0.1)
"""Between attempts to connect; then the last again and again."""


class Credentials(Protocol):
    """What a client says of itself with every RPC; given to `dial` by who knows about tokens."""

    def metadata(self, peer: Peer | None) -> Sequence[tuple[str, str]]:
        """Returns metadata for one RPC to the server `peer`; None on a transport without TLS."""
        ...


class Channel:
    """A connection to one server."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: Address,
        credentials: Credentials | None,
        *,
        relay: Relay | None = None,
        files: KeptFiles | None = None,
    ) -> None:
        self.grpc = channel
        """For the stubs of this room."""
        self.address = address
        self.tls_peer: Peer | None = relay.transport.peer if relay is not None else None
        """The server; None on a transport without TLS."""
        self.fresh_until = math.inf
        """Until when to make RPCs of new connections over it, in seconds since the epoch: half of what the
        server's certificate had left. By then it has another, for who dials."""
        if self.tls_peer is not None:
            now = time.time()
            self.fresh_until = (now + load(self.tls_peer.certificate).not_valid_after_utc.timestamp()) / 2
        self._credentials = credentials
        self._relay = relay
        self._files = files if files is not None else KeptFiles()

    @property
    def connected(self) -> bool:
        """Says whether the connection stands, as far as it is known."""
        if self._relay is not None and self._relay.done.done():
            return False
        return self.grpc.get_state() is grpc.ChannelConnectivity.READY

    def metadata(self) -> grpc.aio.Metadata:
        """Returns the metadata for one RPC."""
        given = self._credentials.metadata(self.tls_peer) if self._credentials is not None else ()
        return grpc.aio.Metadata(*given)

    def files(self, key: str, timeout_s: float | None = None) -> Descriptors:
        """Returns the files that go and come with one RPC about `key`, such as a connection's id."""
        if self._relay is None or not self._relay.transport.carries_files:
            return PassThrough()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return SocketFiles(self._relay.transport, self._files, key, deadline)


@asynccontextmanager
async def dial(
    url: str,
    *,
    timeout_s: float = DIAL_TIMEOUT_S,
    credentials: Credentials | None = None,
    identity: Identity | None = None,
) -> AsyncIterator[Channel]:
    """Connects to the server at `url` and closes the connection on leaving.

    `url` is `unix:///path`, `tcp://host:port`, `host:port`, or `inode://device/inode` of a socket
    file. With an `identity`, the server has to prove its own by TLS; `tls_peer` is then known.
    `timeout_s` is for connecting, which is tried again until it has passed, and for the handshake.
    RPCs still running when the context is left are cancelled.
    Raises InvalidRequest for a URL that is none of these, ConfigError if our own certificate cannot
    be used, and NextHopError (UNAVAILABLE) that says why there was no connection.
    """
    tls = TlsIdentity(identity) if identity is not None else None
    async with dial_with(url, timeout_s=timeout_s, credentials=credentials, tls=tls) as channel:
        yield channel


@asynccontextmanager
async def dial_with(
    url: str, *, timeout_s: float, credentials: Credentials | None, tls: TlsIdentity | None,
    files: KeptFiles | None = None,
) -> AsyncIterator[Channel]:  # fmt: skip
    """Dials as `dial` does, with what the channels of one program share."""
    address = Address.parse(url)
    progress = _Progress()
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(timeout_s):
                if tls is None and address.family is Family.TCP:
                    channel, relay = await _direct(address, stack, progress), None
                else:
                    channel, relay = await _relayed(address, tls, stack, progress)
        except TimeoutError as error:
            raise _unavailable(f"dial {url}: no connection within {timeout_s:g} s", progress.obstacle) from error
        except RemoteProtocolError as error:
            raise _unavailable(f"dial {url}", str(error)) from error
        yield Channel(channel, address, credentials, relay=relay, files=files)


@dataclass(slots=True)
class _Progress:
    """How far an attempt to connect has come."""

    obstacle: str = "no answer"
    """What is in the way at the moment."""


def _unavailable(message: str, detail: str) -> NextHopError:
    return NextHopError(message, status=grpc.StatusCode.UNAVAILABLE.name, detail=detail)


async def _direct(address: Address, stack: AsyncExitStack, progress: _Progress) -> grpc.aio.Channel:
    """Has gRPC connect by itself. It does not say why it cannot, so that is found out first."""
    (await _reached(address, progress)).close()
    progress.obstacle = SILENT
    target = Address(family=Family.TCP, host=address.host or "localhost", port=address.port).host_port
    channel = grpc.aio.insecure_channel(target, options=options.CHANNEL)
    stack.push_async_callback(channel.close, None)
    await channel.channel_ready()
    return channel


async def _relayed(
    address: Address, tls: TlsIdentity | None, stack: AsyncExitStack, progress: _Progress
) -> tuple[grpc.aio.Channel, Relay]:
    """Connects for gRPC, and puts a relay between.

    Raises RemoteProtocolError when trying again is no use.
    """
    transport, stream = await _secured(address, tls, progress)
    stack.callback(transport.close)
    progress.obstacle = SILENT
    with TemporaryDirectory(prefix="vwire-") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory, "grpc")
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(1)
        channel = grpc.aio.insecure_channel(f"unix:{path}", options=options.CHANNEL)
        stack.push_async_callback(channel.close, None)
        channel.get_state(try_to_connect=True)
        await readable(listener)
        inner, _ = listener.accept()
        inner.setblocking(False)
    relay = Relay(transport, stream, inner)
    stack.callback(relay.close)
    ready = asyncio.create_task(channel.channel_ready(), name=f"connection to {address}")
    broken = asyncio.create_task(_ended(relay), name=f"end of the connection to {address}")
    try:
        await asyncio.wait([ready, broken], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ready.cancel()
        broken.cancel()
    if relay.done.done():
        raise RemoteProtocolError(relay.done.result() or "the server closed the connection")
    return channel, relay


async def _ended(relay: Relay) -> None:
    await asyncio.shield(relay.done)


async def _secured(address: Address, tls: TlsIdentity | None, progress: _Progress) -> tuple[Transport, Stream]:
    """Connects and makes the handshake; both are tried again while the connection breaks."""
    while True:
        transport = Transport(await _reached(address, progress))
        if tls is not None:
            progress.obstacle = "no answer to the TLS handshake"
        try:
            return transport, await secured(transport, tls, server_side=False)
        except OSError as error:
            transport.close()
            progress.obstacle = words(error)
            await asyncio.sleep(_PAUSES_S[-1])
        except BaseException:
            transport.close()
            raise


async def _reached(address: Address, progress: _Progress) -> socket.socket:
    """Connects, again and again while nobody answers."""
    for pause_s in itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1])):
        try:
            return await connect(address)
        except OSError as error:
            progress.obstacle = words(error)
            await asyncio.sleep(pause_s)
    raise AssertionError  # the pauses have no end
