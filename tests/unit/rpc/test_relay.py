"""A relay between two sockets: what a peer can make it hold."""

import asyncio
import socket

from forwarder.rpc.relay import MOST_OWED, Relay
from forwarder.rpc.stream import Plain
from forwarder.rpc.transport import Transport


class Talkative(Plain):
    """Has an answer of its own to all that comes, as TLS has to a KeyUpdate (RFC 8446, section 4.6.3)."""

    def __init__(self) -> None:
        self._owed = b""

    def receive(self, data: bytes) -> bytes:
        self._owed += data
        return b""

    def output(self) -> bytes:
        owed, self._owed = self._owed, b""
        return owed


async def test_a_peer_that_asks_for_answers_and_does_not_read_them_is_cut_off() -> None:
    ours, peer = socket.socketpair()
    inner, grpc = socket.socketpair()
    for each in (inner, peer):
        each.setblocking(False)
    relay = Relay(Transport(ours), Talkative(), inner)
    sent = 0
    try:
        while not relay.done.done():
            assert sent < 100 * MOST_OWED
            try:
                sent += peer.send(bytes(65536))
            except BlockingIOError:
                await asyncio.sleep(0)
            except (BrokenPipeError, ConnectionResetError):
                break
        assert "does not read" in await relay.done
    finally:
        relay.close()
        peer.close()
        grpc.close()
