"""Connecting to a server: one socket, and in words why there is none."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Final

import grpc

from forwarder.errors import NextHopError
from forwarder.rpc.address import Address, Family

_FULL_S: Final = 0.01
"""Pause before a unix socket whose backlog is full is tried again: the kernel tells nobody when it is not."""


async def connect(address: Address) -> socket.socket:
    """Connects a non-blocking socket; a name is tried with each of its addresses.

    Raises OSError, and NextHopError for an `inode://` address that no socket has.
    """
    if address.family is Family.TCP:
        return await _tcp(address)
    path = address.path or find_socket(address.device, address.inode)
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        while True:
            try:
                connected.connect(path)
            except BlockingIOError:
                await asyncio.sleep(_FULL_S)
            else:
                return connected
    except BaseException:
        connected.close()
        raise


def words(error: OSError) -> str:
    """Says what the kernel, or the resolver, found."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def _tcp(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, _, _, _, where in await loop.getaddrinfo(
        address.host or "localhost", address.port, type=socket.SOCK_STREAM
    ):
        connected = socket.socket(family, socket.SOCK_STREAM)
        try:
            connected.setblocking(False)
            await loop.sock_connect(connected, where)
        except OSError as error:
            connected.close()
            failure = error
        except BaseException:
            connected.close()
            raise
        else:
            return connected
    assert failure is not None
    raise failure


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
