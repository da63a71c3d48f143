"""Bytes over TCP from one namespace to another, with their digests compared."""

import asyncio
import hashlib
import random
import socket

from tests.support.netns import Netns

TRANSFER_BYTES = 100 << 20
PATIENCE_S = 30


def _send_all(netns: Netns, family: int, address: str, port: int, chunk: bytes, count: int) -> str:
    """Sends `chunk` `count` times, each time turned by its number, and returns the digest of all."""
    digest = hashlib.blake2b()
    with netns.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((address, port))
        for k in range(count):
            turned = chunk[k:] + chunk[:k]
            digest.update(turned)
            sock.sendall(turned)
    return digest.hexdigest()


def _receive_all(listener: socket.socket) -> tuple[str, int]:
    """Accepts one connection and returns the digest and length of what it sends."""
    digest = hashlib.blake2b()
    length = 0
    listener.settimeout(PATIENCE_S)
    sock, _ = listener.accept()
    with sock:
        sock.settimeout(PATIENCE_S)
        while data := sock.recv(1 << 20):
            digest.update(data)
            length += len(data)
    return digest.hexdigest(), length


async def transfer(source: Netns, sink: Netns, family: int, address: str, n_bytes: int = TRANSFER_BYTES) -> None:
    """Sends bytes to `address`, which is the sink's, and compares what arrived with what went."""
    chunk = random.Random(family).randbytes(1 << 20)
    with sink.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]
        sent, (received, length) = await asyncio.gather(
            asyncio.to_thread(_send_all, source, family, address, port, chunk, n_bytes >> 20),
            asyncio.to_thread(_receive_all, listener),
        )
    assert length == n_bytes
    assert received == sent
