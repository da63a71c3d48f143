"""Several workers: vWires are spread over them, and moved between them while frames flow."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from forwarder.dataplane import Dataplane, MemifPortSpec, Mode, PortIO, Role, Vwire
from forwarder.dataplane.memif_port import ConnectedMemifPort
from forwarder.dataplane.placement import Placement
from tests.support.counters import settled
from tests.support.memif_peer import ClientPeer
from tests.support.port_kinds import KINDS, Rig, memif_address


def placement_of(dataplane: Dataplane) -> Placement:
    return dataplane._placement


async def move_about(dataplane: Dataplane, wire: Vwire, enough: asyncio.Event) -> None:
    """Moves a vWire from worker to worker until there is enough."""
    placement = placement_of(dataplane)
    for control in itertools.cycle(dataplane._controls):
        if enough.is_set():
            return
        await placement.move(wire, control)
        await asyncio.sleep(0)


@asynccontextmanager
async def moving(dataplane: Dataplane, wire: Vwire, *, at_least: int = 20) -> AsyncIterator[None]:
    enough = asyncio.Event()
    task = asyncio.create_task(move_about(dataplane, wire, enough))
    try:
        yield
        while placement_of(dataplane).moved < at_least:
            await asyncio.sleep(0.001)
            assert not task.done()
    finally:
        enough.set()
        await task


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_vwires_are_spread_over_the_workers_and_all_carry(workers: int) -> None:
    async with Dataplane(workers=workers) as dataplane, AsyncExitStack() as stack:
        rigs: list[tuple[Rig, Rig]] = []
        for _ in range(6):
            a = await stack.enter_async_context(KINDS["memif-server"](dataplane, Mode.ETHERNET))
            b = await stack.enter_async_context(KINDS["memif-client"](dataplane, Mode.ETHERNET))
            await stack.enter_async_context(dataplane.vwire(a.port, b.port))
            rigs.append((a, b))
        assert [worker.vwires for worker in dataplane.statistics().workers] == [6 // workers] * workers

        async def carry(number: int, a: Rig, b: Rig) -> None:
            frames = [bytes([number]) + n.to_bytes(4, "big") * 15 for n in range(200)]
            await a.send(frames)
            assert await b.receive(200) == frames
            await b.send(frames)
            assert await a.receive(200) == frames

        await asyncio.gather(*(carry(number, *pair) for number, pair in enumerate(rigs)))
        for wire in dataplane.statistics().vwires:
            assert wire.a_to_b.in_frames == wire.a_to_b.out_frames == 200


@pytest.mark.parametrize("sink", ["memif-server", "kernel-queue"])
@pytest.mark.parametrize("source", KINDS)
async def test_no_frame_is_lost_doubled_or_overtaken_while_its_vwire_moves(source: str, sink: str) -> None:
    async with (
        Dataplane(workers=3, rebalance_interval_s=0) as dataplane,
        KINDS[source](dataplane, Mode.ETHERNET) as a,
        KINDS[sink](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port) as wire,
    ):
        frames = [b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01\x88\xb5" + n.to_bytes(4, "big") * 12 for n in range(3000)]

        async def one_way(near: Rig, far: Rig) -> None:
            for start in range(0, len(frames), 50):
                await near.send(frames[start : start + 50])
                assert await far.receive(50) == frames[start : start + 50]

        async with moving(dataplane, wire):
            await one_way(a, b)
            await one_way(b, a)
        seen = await settled(wire)
        for flow in (seen.a_to_b, seen.b_to_a):
            assert flow.in_frames == flow.out_frames == len(frames)
            assert flow.drops == {}
        assert wire.worker is not None
        assert sum(worker.vwires for worker in dataplane.statistics().workers) == 1


async def test_a_sleeping_vwire_is_moved_and_woken_where_it_is_now() -> None:
    async with (
        Dataplane(workers=2, rebalance_interval_s=0) as dataplane,
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["kernel-queue"](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port) as wire,
    ):
        for control in dataplane._controls * 3:
            await asyncio.sleep(0.005)
            await placement_of(dataplane).move(wire, control)
            assert wire.worker is control.worker
            await asyncio.sleep(0.005)
            await a.send([bytes(60)])
            assert await b.receive(1) == [bytes(60)]
            await b.send([bytes(61)])
            assert await a.receive(1) == [bytes(61)]


async def test_a_peer_may_come_and_go_while_its_vwire_moves() -> None:
    """Its memory is given back only when neither of the two workers looks at it."""
    spec = MemifPortSpec(role=Role.SERVER, address=memif_address(), log2_ring_size=8)
    async with (
        Dataplane(workers=2, rebalance_interval_s=0) as dataplane,
        dataplane.memif_port(spec) as port,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as far,
        dataplane.vwire(port, far.port) as wire,
    ):
        assert isinstance(port, ConnectedMemifPort)
        sent = 0
        async with moving(dataplane, wire):
            for _ in range(30):
                peer = await asyncio.to_thread(lambda: ClientPeer(spec.address, log2=8))
                await asyncio.wait_for(port.wait_connected(), 5)
                sent += await asyncio.to_thread(peer.send, [bytes(60)] * 100)
                peer.close()
                await far.receive(100, 0.005)
        while port.connected:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.001)
        flow = (await settled(wire)).a_to_b
        assert flow.in_frames + port.statistics().missed == sent
        assert flow.in_frames == flow.out_frames + flow.dropped_frames


async def test_a_vwire_that_is_closed_while_it_moves_leaves_its_ports_usable() -> None:
    async with (
        Dataplane(workers=2, rebalance_interval_s=0) as dataplane,
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
    ):
        for pauses in range(6):
            async with dataplane.vwire(a.port, b.port) as wire:
                (away,) = [control for control in dataplane._controls if control.worker is not wire.worker]
                move = asyncio.create_task(placement_of(dataplane).move(wire, away))
                for _ in range(pauses):
                    await asyncio.sleep(0)
                if pauses % 2:
                    move.cancel()
            await asyncio.wait([move])
            assert a.port.wire is b.port.wire is wire.worker is None
        with PortIO(a.port) as io:
            await a.send([bytes(60)])
            while not io.read():  # noqa: ASYNC110 - the descriptor is tested elsewhere
                await asyncio.sleep(0.001)


async def test_busy_vwires_end_up_on_different_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a worker each would be the case; here anything is, so that the test needs no load."""
    monkeypatch.setattr("forwarder.dataplane.placement.UNEVEN", 0.0)
    monkeypatch.setattr("forwarder.dataplane.placement_policy.UNEVEN", 0.0)
    monkeypatch.setattr("forwarder.dataplane.placement_policy.GAIN", 1e-9)
    async with Dataplane(workers=2, rebalance_interval_s=0) as dataplane, AsyncExitStack() as stack:
        pairs = []
        for _ in range(2):
            a = await stack.enter_async_context(KINDS["memif-server"](dataplane, Mode.ETHERNET))
            b = await stack.enter_async_context(KINDS["memif-client"](dataplane, Mode.ETHERNET))
            pairs.append((a, b, await stack.enter_async_context(dataplane.vwire(a.port, b.port))))
        placement = placement_of(dataplane)
        for _, _, wire in pairs:
            await placement.move(wire, dataplane._controls[0])
        assert [worker.vwires for worker in dataplane.statistics().workers] == [2, 0]
        moved = placement.moved
        now = 1.0
        while placement.moved == moved:
            for a, b, _ in pairs:
                await a.send([bytes(60)] * 200)
                await b.receive(200)
            await placement.look(now := now + 1.0)
            assert now < 20
        assert [worker.vwires for worker in dataplane.statistics().workers] == [1, 1]
        assert dataplane.statistics().moves == placement.moved
