"""Frames over memif, byte for byte: both roles, every layout of memory a peer may choose.

raw peer <-> our port | vWire | our port <-> raw peer
"""

import asyncio
import contextlib
import os
import random
import time

import pytest

from forwarder.dataplane import Dataplane
from forwarder.dataplane.spec import MemifPortSpec, Mode, Role
from tests.support.memif_peer import MASK_INT, NEXT, ClientPeer, ServerPeer

ROLES = pytest.mark.parametrize("roles", ["server-server", "server-client", "client-server", "client-client"])


def frames(count, *, longest=9000, seed=7, ip=False):
    """Frames of every length, the short and the round ones first."""
    rng = random.Random(seed)
    edges = [14, 59, 60, 63, 64, 65, 1514, 2047, 2048, 2049, 4096, longest]
    lengths = [length for length in edges if length <= longest]
    lengths += [rng.randint(14, longest) for _ in range(count - len(lengths))]
    first = [b"\x45", b"\x60"] if ip else [b""]
    return [(first[n % len(first)] + rng.randbytes(length))[:length] for n, length in enumerate(lengths[:count])]


@contextlib.asynccontextmanager
async def end(dataplane, role, address, *, log2=10, mode=Mode.ETHERNET, **peer_options):
    """One port of ours in `role`, and the raw peer at its other side."""
    spec = MemifPortSpec(role=role, address=address, mode=mode, log2_ring_size=max(8, log2))
    number = int(mode is Mode.IP)
    async with contextlib.AsyncExitStack() as stack:
        if role is Role.SERVER:
            port = await stack.enter_async_context(dataplane.memif_port(spec))
            connecting = asyncio.to_thread(ClientPeer, address, mode=number, log2=log2, **peer_options)
            peer = stack.enter_context(await connecting)
        else:
            server_options = {key: peer_options[key] for key in peer_options.keys() & {"reset"}}
            peer = stack.enter_context(ServerPeer(address, **server_options))
            port = await stack.enter_async_context(dataplane.memif_port(spec))
            await asyncio.to_thread(peer.accept)
        await port.wait_connected()
        yield port, peer


@contextlib.asynccontextmanager
async def wire(roles="server-server", **options):
    """A vWire between two raw peers; yields (peer, peer, vWire, ports)."""
    left, right = (Role(role) for role in roles.split("-"))
    async with (
        Dataplane() as dataplane,
        end(dataplane, left, "@/frames/left", **options) as (a, left_peer),
        end(dataplane, right, "@/frames/right", **options) as (b, right_peer),
        dataplane.vwire(a, b, name="frames") as vwire,
    ):
        yield left_peer, right_peer, vwire, (a, b)


def carry(sender, receiver, sent):
    """Sends all frames, never more on the way than the rings take, and collects them."""
    got = []
    number = 0
    deadline = time.monotonic() + 10
    while len(got) < len(sent) and time.monotonic() < deadline:
        number += sender.send(sent[number : len(got) + 16])
        got += receiver.receive_all(1, 0.05)
    return got


async def both_ways(left, right, vwire, sent):
    for sender, receiver in ((left, right), (right, left)):
        got = await asyncio.to_thread(carry, sender, receiver, sent)
        assert len(got) == len(sent)
        assert [n for n, pair in enumerate(zip(sent, got, strict=True)) if pair[0] != pair[1]] == []
    await counted(vwire, len(sent), sum(map(len, sent)))


async def counted(vwire, count, size):
    def now():
        flows = (vwire.statistics().a_to_b, vwire.statistics().b_to_a)
        return {(f.in_frames, f.in_bytes, f.out_frames, f.out_bytes, tuple(f.drops)) for f in flows}

    await until(lambda: now() == {(count, size, count, size, ())})


async def until(condition):
    """Waits: what a peer can see already may not have been counted yet."""
    async with asyncio.timeout(2):
        while not condition():  # noqa: ASYNC110 - nothing to wait on: the state is the worker's
            await asyncio.sleep(0.002)


@ROLES
async def test_frames_of_every_length_arrive_unchanged(roles):
    async with wire(roles) as (left, right, vwire, _):
        await both_ways(left, right, vwire, frames(400))


@ROLES
async def test_packets_of_every_length_arrive_unchanged(roles):
    async with wire(roles, mode=Mode.IP) as (left, right, vwire, _):
        await both_ways(left, right, vwire, frames(200, ip=True))


@pytest.mark.parametrize("log2", [5, 8, 14])
async def test_rings_of_every_size_work(log2):
    longest = 9000 if log2 > 5 else 2048
    async with wire(log2=log2) as (left, right, vwire, _):
        await both_ways(left, right, vwire, frames(200, longest=longest))


@pytest.mark.parametrize(
    "layout",
    [
        {"buffer_region": 1},
        {"buffer_region": 1, "headroom": 128},
        {"headroom": 64},
        {"buffer_bytes": 256},
        {"buffer_bytes": 65535, "log2": 8},
        {"pipelined": True},
        {"post_early": True, "pipelined": True},
    ],
    ids=str,
)
async def test_memory_may_be_laid_out_as_the_peer_likes(layout):
    async with wire(**layout) as (left, right, vwire, _):
        await both_ways(left, right, vwire, frames(200))


async def test_a_server_may_leave_the_indices_alone():
    # VPP does; libmemif and DPDK write zeros when they connect.
    async with wire("client-client", reset=False) as (left, right, vwire, _):
        await both_ways(left, right, vwire, frames(200))


async def test_a_frame_of_64_kib_goes_through_chained():
    async with wire(log2=10) as (left, right, vwire, _):
        await both_ways(left, right, vwire, [os.urandom(65_535), os.urandom(60), os.urandom(65_000)])


async def test_seventy_thousand_frames_wrap_the_indices_and_keep_their_order():
    async with wire("server-client", log2=8) as (left, right, vwire, _):
        sent = [number.to_bytes(60, "big") for number in range(70_000)]

        def run():
            got, number = [], 0
            deadline = time.monotonic() + 30
            while len(got) < len(sent) and time.monotonic() < deadline:
                number += left.send(sent[number : len(got) + 200])
                got += right.receive()
            return got

        assert await asyncio.to_thread(run) == sent
        await until(lambda: vwire.statistics().a_to_b.out_frames == len(sent))


@ROLES
async def test_a_frame_after_a_rest_wakes_the_worker(roles):
    async with wire(roles) as (left, right, _, __):
        for sender, receiver in ((left, right), (right, left)):
            for _ in range(3):
                await asyncio.sleep(0.05)
                sender.send_all([b"x" * 60])
                assert await asyncio.to_thread(receiver.receive_all, 1) == [b"x" * 60]


async def test_a_frame_whose_wake_up_was_lost_arrives_all_the_same():
    async with wire() as (left, right, _, __):
        await asyncio.sleep(0.1)
        kick, left.to_server.kick = left.to_server.kick, os.eventfd(0)
        try:
            left.send_all([b"y" * 60])
        finally:
            os.close(left.to_server.kick)
            left.to_server.kick = kick
        assert await asyncio.to_thread(right.receive_all, 1) == [b"y" * 60]


async def test_a_peer_that_polls_is_not_woken():
    async with wire() as (left, right, _, (__, port)):
        before = port.statistics().kicks
        right.to_client.flags = MASK_INT
        left.send_all([b"z" * 60] * 50)
        assert len(await asyncio.to_thread(right.receive_all, 50)) == 50
        assert port.statistics().kicks == before
        right.to_client.flags = 0
        left.send_all([b"z" * 60])
        assert len(await asyncio.to_thread(right.receive_all, 1)) == 1
        assert port.statistics().kicks == before + 1


async def test_flags_that_a_sender_leaves_behind_are_cleared():
    async with wire(log2=8) as (left, right, _, __):
        left.send_all([os.urandom(9000)])
        assert len(await asyncio.to_thread(right.receive_all, 1)) == 1
        await until(lambda: left.to_server.tail == 5)
        assert [left.to_server.read(slot)[0] & NEXT for slot in range(5)] == [0] * 5


async def test_a_chain_without_an_end_is_dropped_and_counted():
    async with wire(log2=8) as (left, right, vwire, _):
        ring = left.to_server
        ring.write(0, flags=NEXT, length=60, offset=left.slot_offset(to_server=True, index=0))
        ring.head = 1
        ring.wake()
        left._head = 1
        good = os.urandom(60)
        await asyncio.sleep(0.05)
        left.send_all([good])
        assert await asyncio.to_thread(right.receive_all, 1) == [good]
        await until(lambda: vwire.statistics().a_to_b.in_frames == 2)
        flow = vwire.statistics().a_to_b
        assert (flow.out_frames, dict(flow.drops)) == (1, {"bad_chain": 1})


async def test_packets_that_are_not_ip_are_dropped_in_ip_mode():
    async with wire(mode=Mode.IP) as (left, right, vwire, _):
        left.send_all([b"\x00" * 40, b"\x45" + b"\x00" * 39])
        assert await asyncio.to_thread(right.receive_all, 1) == [b"\x45" + b"\x00" * 39]
        await until(lambda: vwire.statistics().a_to_b.out_frames == 1)
        assert dict(vwire.statistics().a_to_b.drops) == {"not_ip": 1}
