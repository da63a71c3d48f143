"""A memif peer that breaks the rules loses its own connection; every other vWire goes on."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from forwarder.dataplane import Dataplane, MemifPortSpec, Mode, Role
from tests.support.counters import settled
from tests.support.memif_peer import DISCONNECT, ClientPeer, PeerRefused
from tests.support.port_kinds import KINDS, Rig, memif_address


@asynccontextmanager
async def witness(dataplane: Dataplane) -> AsyncIterator[tuple[Rig, Rig]]:
    """A vWire between well-behaved peers, run by the same worker."""
    async with (
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port, name="witness") as wire,
    ):
        yield a, b
        flow = (await settled(wire)).a_to_b
        assert flow.in_frames == flow.out_frames


async def check(a: Rig, b: Rig) -> None:
    frames = [n.to_bytes(4, "big") * 15 for n in range(200)]
    await a.send(frames)
    assert await b.receive(200) == frames


def reason_of(peer: ClientPeer) -> str:
    """Waits for DISCONNECT and returns its text."""
    with pytest.raises(PeerRefused) as refused:
        while peer.control.receive()[0] != DISCONNECT:
            pass
    return str(refused.value)


async def truncate(peer: ClientPeer) -> None:
    os.ftruncate(peer.fds[0], 4096)  # the first ring is left, its buffers are not
    for index in range(10, 20):
        peer.to_server.write(index, length=60, offset=peer.slot_offset(to_server=True, index=index))
    peer.to_server.head = 20
    peer.to_server.wake()


async def jump(peer: ClientPeer) -> None:
    peer.to_server.head = 0x8000
    peer.to_server.wake()


async def babble(peer: ClientPeer) -> None:
    for index in range(200):
        peer.to_server.write(index, region=5, length=60, offset=0)
    peer.to_server.head = 200
    peer.to_server.wake()


OFFENCES = {
    "truncates": (truncate, "the peer truncated its memory"),
    "jumps": (jump, "the peer moved a ring index by more than the ring has"),
    "babbles": (babble, "the peer sent too many bad descriptors"),
}


@pytest.mark.parametrize("offence", OFFENCES)
async def test_an_offender_is_disconnected_with_the_reason_and_may_come_back(offence: str) -> None:
    offend, reason = OFFENCES[offence]
    spec = MemifPortSpec(role=Role.SERVER, address=memif_address(), log2_ring_size=8, allow_unsealed=True)
    async with (
        Dataplane() as dataplane,
        witness(dataplane) as (a, b),
        dataplane.memif_port(spec) as port,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as far,
        dataplane.vwire(port, far.port) as wire,
    ):
        for _ in range(3):
            peer = await asyncio.to_thread(lambda: ClientPeer(spec.address, log2=8, seals=0))
            await asyncio.wait_for(port.wait_connected(), 5)
            await asyncio.to_thread(peer.send_all, [bytes(60)] * 10)
            assert len(await far.receive(10)) == 10
            await offend(peer)
            try:
                assert reason in await asyncio.to_thread(reason_of, peer)
            finally:
                if offence == "truncates":
                    os.ftruncate(peer.fds[0], len(peer.maps[0]))
                    await far.receive(100, 0.1)  # zeros, or nothing
                peer.close()
            assert not port.connected
            await check(a, b)
        flow = (await settled(wire)).a_to_b
        assert flow.in_frames == flow.out_frames + flow.dropped_frames


async def test_unsealed_memory_is_refused_unless_allowed() -> None:
    spec = MemifPortSpec(role=Role.SERVER, address=memif_address(), log2_ring_size=8)
    async with Dataplane() as dataplane, dataplane.memif_port(spec):
        with pytest.raises(PeerRefused, match="F_SEAL_SHRINK"):
            await asyncio.to_thread(lambda: ClientPeer(spec.address, log2=8, seals=0))


async def test_a_peer_that_vanishes_under_load_takes_nothing_with_it() -> None:
    """Its frames under way are lost and nothing else; the port takes the next peer."""
    spec = MemifPortSpec(role=Role.SERVER, address=memif_address(), log2_ring_size=8)
    async with (
        Dataplane() as dataplane,
        witness(dataplane) as (a, b),
        dataplane.memif_port(spec) as port,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as far,
        dataplane.vwire(port, far.port),
    ):
        for _ in range(10):
            peer = await asyncio.to_thread(lambda: ClientPeer(spec.address, log2=8))
            await asyncio.wait_for(port.wait_connected(), 5)
            sending = asyncio.create_task(asyncio.to_thread(peer.send, [bytes(60)] * 256))
            await far.receive(1)
            await sending
            peer.close()
            await check(a, b)
            await far.receive(1000, 0.02)


async def test_idle_wires_wake_nobody() -> None:
    """Both ends of every wire are our own, so that only the worker's rest is looked at."""
    pairs = 100
    async with Dataplane() as dataplane, Dataplane() as apps, AsyncExitStack() as stack:
        for _ in range(pairs):
            ports = []
            for _ in range(2):
                address = memif_address()
                near = MemifPortSpec(role=Role.SERVER, address=address, log2_ring_size=8)
                far = MemifPortSpec(role=Role.CLIENT, address=address, log2_ring_size=8)
                ports.append(await stack.enter_async_context(dataplane.memif_port(near)))
                end = await stack.enter_async_context(apps.memif_port(far))
                await asyncio.wait_for(end.wait_connected(), 5)
            await stack.enter_async_context(dataplane.vwire(*ports))
        await asyncio.sleep(0.6)
        before = dataplane.statistics().workers[0]
        await asyncio.sleep(0.5)
        after = dataplane.statistics().workers[0]
        assert after.vwires == pairs
        assert after.turns == before.turns
