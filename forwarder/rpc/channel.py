"""Dialing: a channel to one server, connected when it is handed out."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import grpc

from forwarder.api.x509 import Peer
from forwarder.errors import NextHopError
from forwarder.rpc import options
from forwarder.rpc.address import Address, Family
from forwarder.rpc.descriptors import Descriptors, PassThrough

DIAL_TIMEOUT_S: Final = 0.75
"""What the programs of the mesh allow each other for connecting."""


class Credentials(Protocol):
    """What a client says of itself with every RPC; given to `dial` by who knows about tokens."""

    def metadata(self, peer: Peer | None) -> Sequence[tuple[str, str]]:
        """Returns metadata for one RPC to the server `peer`; None on a transport without TLS."""
        ...


class Channel:
    """A connection to one server."""

    def __init__(self, channel: grpc.aio.Channel, address: Address, credentials: Credentials | None) -> None:
        self.grpc = channel
        """For the stubs of this room."""
        self.address = address
        self.tls_peer: Peer | None = None
        """The server; None on a transport without TLS."""
        self.descriptors: Descriptors = PassThrough()
        """Files that go, and come, beside the messages."""
        self._credentials = credentials

    @property
    def connected(self) -> bool:
        """Says whether the connection stands, as far as it is known."""
        return self.grpc.get_state() is grpc.ChannelConnectivity.READY

    def metadata(self) -> grpc.aio.Metadata:
        """Returns the metadata for one RPC."""
        given = self._credentials.metadata(self.tls_peer) if self._credentials is not None else ()
        return grpc.aio.Metadata(*given)


@asynccontextmanager
async def dial(
    url: str, *, timeout_s: float = DIAL_TIMEOUT_S, credentials: Credentials | None = None
) -> AsyncIterator[Channel]:
    """Connects to the server at `url` and closes the connection on leaving.

    `url` is `unix:///path`, `tcp://host:port`, `host:port`, or `inode://device/inode` of a socket
    file. Connecting is tried again until `timeout_s` have passed.
    RPCs still running when the context is left are cancelled.
    Raises InvalidRequest for a URL that is none of these, and NextHopError (UNAVAILABLE) that
    says why there was no connection.
    """
    address = Address.parse(url)
    channel = grpc.aio.insecure_channel(_target(address), options=options.CHANNEL)
    try:
        try:
            async with asyncio.timeout(timeout_s):
                await channel.channel_ready()
        except TimeoutError as error:
            raise NextHopError(
                f"dial {url}: no connection within {timeout_s:g} s",
                status=grpc.StatusCode.UNAVAILABLE.name,
                detail=await asyncio.to_thread(_reason, address),
            ) from error
        yield Channel(channel, address, credentials)
    finally:
        await channel.close(None)


def _target(address: Address) -> str:
    match address.family:
        case Family.UNIX:
            return f"unix:{address.path}"
        case Family.INODE:
            return f"unix:{find_socket(address.device, address.inode)}"
        case Family.TCP:
            return Address(family=Family.TCP, host=address.host or "localhost", port=address.port).host_port


def find_socket(device: int, inode: int) -> str:
    """Returns the path of a bound unix socket by the numbers of its file.

    Looks through the paths that /proc/net/unix shows, so it finds sockets that were bound in our
    network namespace under a name that means the same in our mount namespace.
    Raises NextHopError (UNAVAILABLE) if there is none.
    """
    with Path("/proc/net/unix").open(encoding="utf-8", errors="surrogateescape") as table:
        lines = table.readlines()[1:]
    for line in lines:
        columns = line.rstrip("\n").split(" ", 7)
        path = columns[7] if len(columns) == 8 else ""
        if not path.startswith("/"):
            continue
        try:
            found = os.stat(path)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (device, inode):
            return path
    raise NextHopError(
        f"dial inode://{device}/{inode}: no bound unix socket has this file",
        status=grpc.StatusCode.UNAVAILABLE.name,
    )


def _reason(address: Address) -> str:
    """Connects once more with a plain socket, to say what the kernel says; gRPC does not."""
    try:
        if address.family is Family.TCP:
            socket.create_connection((address.host or "localhost", address.port), timeout=0.2).close()
        else:
            path = address.path or find_socket(address.device, address.inode)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(0.2)
                probe.connect(path)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)
    except NextHopError as error:
        return error.message
    return "something listens but does not speak gRPC"
