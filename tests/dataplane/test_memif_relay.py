"""Two memif applications behind a relay share memory directly, however they come, go and misbehave."""

import asyncio
import contextlib
import os
import secrets
import socket

import pytest

from forwarder.dataplane.memif_relay import APPLICATIONS_MAX, MemifTarget, open_memif_relay
from forwarder.errors import DataplaneError
from tests.support.memif_peer import ACK, HELLO, INIT, ClientPeer, Control, PeerRefused, ServerPeer, make_region
from tests.support.memif_peer import unix_address as where

FRAMES = [bytes([n % 251]) * size for n, size in enumerate([60, 64, 1514, 2048, 9000] * 20)]


@pytest.fixture
def names():
    """Where applications connect, and where the endpoint listens."""
    unique = secrets.token_hex(4)
    return f"@/relay/{unique}/near", f"@/relay/{unique}/far"


@contextlib.asynccontextmanager
async def relay(names):
    near, far = names
    async with open_memif_relay(near, None) as opened, opened.towards(MemifTarget(address=far)):
        yield opened


@contextlib.asynccontextmanager
async def both(names, server):
    """An application at each end, shaken hands through the relay."""
    accepting = asyncio.create_task(asyncio.to_thread(server.accept))
    client = await asyncio.to_thread(ClientPeer, names[0])
    try:
        await accepting
        yield client
    finally:
        await asyncio.to_thread(client.close)


async def exchanged(client, server):
    """Sends frames both ways."""
    for sender, receiver in ((client, server), (server, client)):
        sending = asyncio.create_task(asyncio.to_thread(sender.send_all, FRAMES))
        assert await asyncio.to_thread(receiver.receive_all, len(FRAMES)) == FRAMES
        await sending


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_frames_pass_without_us_and_we_keep_no_descriptor_of_the_memory(names):
    with ServerPeer(names[1]) as server:
        async with relay(names) as relayed, both(names, server) as client:
            await exchanged(client, server)
            assert relayed.joined == 1
            held = [name for fd in os.listdir("/proc/self/fd") if "memfd:" in (name := _what_is(fd))]
            assert len(held) == 4, "each application's own, and that of its mapping"


def _what_is(fd):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}")
    return ""


async def test_either_application_may_go_and_come_back(names):
    with ServerPeer(names[1]) as server:
        async with relay(names) as relayed:
            for reason in ("done", None, "again"):
                async with both(names, server) as client:
                    await exchanged(client, server)
                    await asyncio.to_thread(client.close, reason)
                    with pytest.raises(PeerRefused, match=reason or "^$"):
                        await asyncio.to_thread(server.control.receive)
                    server.drop()
            for reason in ("restart", None):
                async with both(names, server) as client:
                    server.drop(reason)
                    with pytest.raises(PeerRefused, match=reason or "^$"):
                        await asyncio.to_thread(client.control.receive)
            await until(lambda: relayed.joined == 0)


async def test_an_application_waits_for_the_other_to_listen(names):
    async with relay(names):
        control = await asyncio.to_thread(Control.connect, names[0])
        await asyncio.sleep(0.05)
        with ServerPeer(names[1]) as server:
            accepting = asyncio.create_task(asyncio.to_thread(server.accept))
            client = await asyncio.to_thread(ClientPeer, control)
            await accepting
            await exchanged(client, server)
            await asyncio.to_thread(client.close)


async def test_one_that_connects_before_there_is_a_target_waits_for_it_and_the_next_target_is_another(names):
    near, far = names
    async with open_memif_relay(near, None) as opened:
        control = await asyncio.to_thread(Control.connect, near)
        with ServerPeer(far) as first, ServerPeer(far + "2") as second:
            async with opened.towards(MemifTarget(address=far)):
                accepting = asyncio.create_task(asyncio.to_thread(first.accept))
                client = await asyncio.to_thread(ClientPeer, control)
                await accepting
            with pytest.raises(PeerRefused):
                await asyncio.to_thread(client.control.receive)
            client.close()
            async with opened.towards(MemifTarget(address=far + "2")), both(names, second) as again:
                await exchanged(again, second)


@pytest.mark.parametrize("size", [0, 1, 127, 129, 4000])
async def test_a_message_of_another_size_ends_that_connection_only(names, size):
    with ServerPeer(names[1]) as server:
        async with relay(names), both(names, server) as client:
            bad = await asyncio.to_thread(Control.connect, names[0])
            bad.send_raw(b"x" * size)
            with pytest.raises(PeerRefused):
                await asyncio.to_thread(bad.receive)
            bad.close()
            await exchanged(client, server)


async def test_two_descriptors_in_one_message_end_the_connection_and_are_closed(names):
    with ServerPeer(names[1]) as server:
        async with relay(names):
            bad = await asyncio.to_thread(Control.connect, names[0])
            other = await asyncio.to_thread(server.listener.accept)
            other[0].close()
            bad.close()
            before = open_descriptors()
            for count in (2, 50):
                bad = await asyncio.to_thread(Control.connect, names[0])
                with contextlib.closing(bad):
                    bad.send(INIT, fds=[0] * count)
                    with pytest.raises(PeerRefused):
                        await asyncio.to_thread(bad.receive)
            await until(lambda: open_descriptors() <= before)


async def test_a_peer_that_does_not_read_makes_the_other_wait_and_costs_one_message(names):
    """What waits is in the kernel's buffers, and that is little; when it reads again everything arrives in order."""
    with ServerPeer(names[1]) as server:
        async with relay(names):
            talker = await asyncio.to_thread(Control.connect, names[0])
            listener, _ = await asyncio.to_thread(server.listener.accept)
            fd = make_region(4096)
            before = open_descriptors()
            talker.sock.setblocking(False)
            sent = 0
            for _ in range(200):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        talker.send(ACK, sent.to_bytes(4, "little"), [fd])
                        sent += 1
                await asyncio.sleep(0.001)
            assert sent < 2000
            assert open_descriptors() <= before + 1
            reader = Control(listener)
            for number in range(sent):
                kind, body, fds = await asyncio.to_thread(reader.receive)
                assert (kind, int.from_bytes(body[:4], "little"), len(fds)) == (ACK, number, 1)
                os.close(fds[0])
            talker.close()
            with pytest.raises(PeerRefused):
                await asyncio.to_thread(reader.receive)
            reader.close()
            os.close(fd)


async def test_more_connections_than_there_is_room_for_are_closed_at_once_and_room_is_found_again(names):
    async with relay(names) as relayed:
        waiting = [await asyncio.to_thread(Control.connect, names[0]) for _ in range(APPLICATIONS_MAX)]
        for _ in range(50):
            extra = await asyncio.to_thread(Control.connect, names[0])
            with pytest.raises(PeerRefused):
                await asyncio.to_thread(extra.receive)
            extra.close()
        for each in waiting:
            each.close()
        await until(lambda: relayed.connections == 0)
        with ServerPeer(names[1]) as server:
            async with both(names, server) as client:
                await exchanged(client, server)


async def test_closing_ends_every_connection(names):
    with ServerPeer(names[1]) as server:
        async with relay(names):
            joined = await asyncio.to_thread(Control.connect, names[0])
            other, _ = await asyncio.to_thread(server.listener.accept)
            Control(other).send_hello()
            await asyncio.to_thread(joined.expect, HELLO)
        for each in (joined, Control(other)):
            with pytest.raises(PeerRefused):
                await asyncio.to_thread(each.receive)
            each.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as late, pytest.raises(ConnectionRefusedError):
            late.connect(where(names[0]))


async def test_an_address_that_somebody_has_is_refused(names):
    with ServerPeer(names[0]), pytest.raises(DataplaneError, match="cannot listen on memif socket"):
        async with relay(names):
            pass
