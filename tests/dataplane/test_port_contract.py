"""What every port promises, whatever its kind: driven from Python, and on a vWire with every other."""

import asyncio
import itertools
import random
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from forwarder.dataplane import Dataplane, FlowStatistics, Mode, PortIO, Vwire
from forwarder.errors import DataplaneError
from tests.support.counters import settled
from tests.support.frames import every_size, samples
from tests.support.port_kinds import IP_KINDS, KINDS, Rig
from tests.support.superframe import super_frame

T = TypeVar("T")
PAIRS = [*itertools.product(KINDS, repeat=2)]


# Pytest keeps what a fixture gave until after the leak check: so it gets a proxy.


@pytest.fixture
async def dataplane() -> AsyncIterator[Dataplane]:
    async with Dataplane() as made:
        yield weakref.proxy(made)


@pytest.fixture(params=KINDS)
async def rig(request: pytest.FixtureRequest, dataplane: Dataplane) -> AsyncIterator[Rig]:
    async with KINDS[request.param](dataplane, Mode.ETHERNET) as made:
        yield weakref.proxy(made)


async def until(condition: Callable[[], T], timeout_s: float = 5.0) -> T:
    """Waits until `condition` returns something true, and returns it."""
    async with asyncio.timeout(timeout_s):
        while not (found := condition()):  # noqa: ASYNC110 - counters tell nobody
            await asyncio.sleep(0.001)
    return found


async def read(io: PortIO, count: int, timeout_s: float = 5.0) -> list[bytes]:
    """Reads frames as an event loop would: whenever the descriptor says so."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    frames: list[bytes] = []
    loop.add_reader(io.fileno(), ready.set)
    try:
        async with asyncio.timeout(timeout_s):
            while len(frames) < count:
                await ready.wait()
                ready.clear()
                frames += io.read()
    finally:
        loop.remove_reader(io.fileno())
    return frames


async def through_port(io: PortIO, rig: Rig, frames: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Reads what the other end sends and writes the same; returns what was read and what arrived there."""
    seen, arrived = [], []
    for start in range(0, len(frames), rig.on_the_way):
        part = frames[start : start + rig.on_the_way]
        await rig.send(part)
        seen += await read(io, len(part))
        assert io.write(part) == len(part)
        arrived += await rig.receive(len(part))
    return seen, arrived


def balanced(flow: FlowStatistics) -> bool:
    return flow.in_frames == flow.out_frames + flow.dropped_frames


async def test_frames_of_every_size_pass_both_ways_in_order(rig: Rig) -> None:
    frames = list(every_size(1500))
    with PortIO(rig.port) as io:
        seen, arrived = await through_port(io, rig, frames)
        assert seen == frames
        assert arrived == frames
        received, sent = io.statistics()
        assert received.in_frames == sent.out_frames == len(frames)
        assert received.in_bytes == sent.out_bytes == sum(map(len, frames))
        assert not received.drops
        assert not sent.drops


async def test_frames_of_every_kind_pass_both_ways(rig: Rig) -> None:
    with PortIO(rig.port) as io:
        seen, arrived = await through_port(io, rig, samples())
        assert seen == arrived == samples()


async def test_long_frames_pass_in_one_piece(rig: Rig) -> None:
    frames = [random.Random(n).randbytes(n) for n in (2048, 2049, 4096, 9014, 65550) if n <= rig.longest]
    with PortIO(rig.port) as io:
        seen, arrived = await through_port(io, rig, frames)
        assert seen == arrived == frames


async def test_nothing_to_read_is_no_frames_and_no_wait(rig: Rig) -> None:
    with PortIO(rig.port) as io:
        assert io.read() == []


async def test_a_super_frame_leaves_as_what_it_stands_for(rig: Rig) -> None:
    made = super_frame(
        Ether(dst="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2), bytes(20_000), 1400
    )
    with PortIO(rig.port) as io:
        assert io.write([(made.frame, made.offload)]) == 1
        if rig.finishes:
            assert await rig.receive(len(made.segments)) == made.segments
        else:
            assert await rig.receive(1) == [made.frame]
        _, sent = io.statistics()
        assert (sent.in_frames, sent.out_frames, sent.out_bytes) == (1, 1, len(made.frame))


async def test_what_cannot_be_finished_is_dropped_and_counted(rig: Rig) -> None:
    made = super_frame(Ether() / IP(dst="10.0.0.2") / TCP(sport=1, dport=2), bytes(3000), 1400)
    nonsense = made.frame[:30]  # ends before the checksum
    with PortIO(rig.port) as io:
        assert io.write([(nonsense, made.offload), bytes(60)]) == 2
        assert await rig.receive(1) == [bytes(60)]
        _, sent = io.statistics()
        assert sent.out_frames == 1
        assert sent.dropped_frames == 1
        assert balanced(sent)


async def test_without_a_connection_frames_are_dropped_as_link_down(rig: Rig) -> None:
    with PortIO(rig.port) as io:
        rig.hang_up()
        await until(lambda: not rig.port.connected)
        assert io.write([bytes(60)] * 70) == 70
        _, sent = io.statistics()
        assert sent.drops == {"link_down": 70}
        assert io.read() == []


async def test_one_runner_at_a_time(rig: Rig, dataplane: Dataplane) -> None:
    async with KINDS["memif-server"](dataplane, Mode.ETHERNET) as other:
        with PortIO(rig.port), pytest.raises(DataplaneError, match="already"):
            PortIO(rig.port)
        async with dataplane.vwire(rig.port, other.port):
            with pytest.raises(DataplaneError, match="already"):
                PortIO(rig.port)
            with pytest.raises(DataplaneError, match="already"):
                async with dataplane.vwire(rig.port, other.port):
                    pass
        with PortIO(rig.port):
            pass


async def test_a_closed_portio_says_so(rig: Rig) -> None:
    io = PortIO(rig.port)
    io.close()
    io.close()
    with pytest.raises(DataplaneError, match="closed"):
        io.read()


@pytest.mark.parametrize("kind", IP_KINDS)
async def test_ip_ports_pass_packets_and_nothing_else(kind: str, dataplane: Dataplane) -> None:
    packets = [b"\x45" + bytes(27), b"\x60" + bytes(1279)]
    async with KINDS[kind](dataplane, Mode.IP) as rig:
        with PortIO(rig.port) as io:
            await rig.send([b"\x00" + bytes(59), packets[0], b"\xff", packets[1]])
            assert await read(io, 2) == packets
            received, _ = io.statistics()
            assert received.drops == {"not_ip": 2}
            assert balanced(received)


@pytest.mark.parametrize("kind", IP_KINDS)
async def test_ip_and_ethernet_do_not_share_a_wire(kind: str, dataplane: Dataplane) -> None:
    async with KINDS[kind](dataplane, Mode.IP) as a, KINDS[kind](dataplane, Mode.ETHERNET) as b:
        with pytest.raises(DataplaneError, match="IP packets"):
            async with dataplane.vwire(a.port, b.port):
                pass


# --- On a vWire -----------------------------------------------------------------------------


async def carry(a: Rig, b: Rig, frames: Sequence[bytes]) -> list[bytes]:
    """Sends from one end to the other, never more than fit on the way."""
    window = min(a.on_the_way, b.on_the_way)
    arrived: list[bytes] = []
    for start in range(0, len(frames), window):
        part = frames[start : start + window]
        await a.send(part)
        arrived += await b.receive(len(part))
    return arrived


@pytest.mark.parametrize(("kind_a", "kind_b"), PAIRS)
async def test_every_pair_of_kinds_carries_frames_both_ways(dataplane: Dataplane, kind_a: str, kind_b: str) -> None:
    frames = [*every_size(1500)][::7] + samples()
    async with (
        KINDS[kind_a](dataplane, Mode.ETHERNET) as a,
        KINDS[kind_b](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port, name="pair") as wire,
    ):
        assert await carry(a, b, frames) == frames
        assert await carry(b, a, frames) == frames
        seen = await settled(wire)
    for flow in (seen.a_to_b, seen.b_to_a):
        assert flow.in_frames == flow.out_frames == len(frames)
        assert flow.in_bytes == flow.out_bytes == sum(map(len, frames))
        assert not flow.drops


@pytest.mark.parametrize(("kind_a", "kind_b"), PAIRS)
async def test_a_sleeping_wire_is_woken_by_one_frame(dataplane: Dataplane, kind_a: str, kind_b: str) -> None:
    async with (
        KINDS[kind_a](dataplane, Mode.ETHERNET) as a,
        KINDS[kind_b](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port),
    ):
        for _ in range(3):
            await asleep(dataplane)
            assert await carry(a, b, [bytes(60)]) == [bytes(60)]
            await asleep(dataplane)
            assert await carry(b, a, [bytes(61)]) == [bytes(61)]


async def asleep(dataplane: Dataplane) -> None:
    """Waits until the worker does nothing."""

    def turns() -> int:
        return dataplane.statistics().workers[0].turns

    before = -1
    while before != (before := turns()):  # noqa: ASYNC110 - a sleeping worker tells nobody
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_receiver_that_is_down_costs_the_frames_and_nothing_else(dataplane: Dataplane, kind: str) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(KINDS["memif-server"](dataplane, Mode.ETHERNET))
        b = await stack.enter_async_context(KINDS[kind](dataplane, Mode.ETHERNET))
        wire = await stack.enter_async_context(dataplane.vwire(a.port, b.port))
        b.hang_up()
        await until(lambda: not b.port.connected)
        await a.send([bytes(60)] * 300)
        await until(lambda: wire.statistics().a_to_b.in_frames == 300)
        assert wire.statistics().a_to_b.drops == {"link_down": 300}


async def test_a_receiver_without_room_holds_frames_back_and_then_costs_them(dataplane: Dataplane) -> None:
    """Nothing is lost while the receiver is slow, and the sender is not held up for ever by a stuck one."""
    async with (
        Dataplane(stall_limit_ms=100) as slow,
        KINDS["memif-server"](slow, Mode.ETHERNET) as a,
        KINDS["memif-client"](slow, Mode.ETHERNET) as b,
        slow.vwire(a.port, b.port) as wire,
    ):
        frames = [n.to_bytes(4, "big") * 15 for n in range(2000)]
        sending = asyncio.create_task(a.send(frames))
        arrived: list[bytes] = []
        while len(arrived) < len(frames):
            arrived += await b.receive(100)
        await sending
        assert arrived == frames
        assert not wire.statistics().a_to_b.drops
        # Now nobody takes them: 256 fit into the receiver's ring, the rest is given up.
        await a.send(frames[:1000])
        await until(lambda: wire.statistics().a_to_b.in_frames == 3000)
        flow = wire.statistics().a_to_b
        assert flow.drops == {"no_room": 1000 - 256}
        assert balanced(flow)
        assert await b.receive(256) == frames[:256]
        await a.send(frames[:10])
        assert await b.receive(10) == frames[:10]


@pytest.mark.parametrize("kind", ["kernel-queue", "kernel-ring"])
@pytest.mark.parametrize("sink", ["memif-server", "memif-client"])
async def test_kernel_frames_wait_for_a_slow_memif_receiver_and_a_stuck_one_costs_them(kind: str, sink: str) -> None:
    """Where there is no room they stay with the kernel, for as long as frames are held and no longer."""
    async with (
        Dataplane(stall_limit_ms=500) as slow,
        KINDS[kind](slow, Mode.ETHERNET) as a,
        KINDS[sink](slow, Mode.ETHERNET) as b,
        slow.vwire(a.port, b.port) as wire,
    ):
        frames = [n.to_bytes(4, "big") * 15 for n in range(600)]
        arrived: list[bytes] = []
        # Once around the ring, with more on the way than fits into it.
        for start in range(0, len(frames), 60):
            await a.send(frames[start : start + 60])
            if start >= 240:
                arrived += await b.receive(60)
            else:
                await settled(wire)  # so that no queue before the vWire overflows
        arrived += await b.receive(len(frames) - len(arrived))
        assert arrived == frames
        assert (await settled(wire)).a_to_b.drops == {}
        # Now nobody takes them: 256 fit into the receiver's ring, the rest is given up.
        for start in range(0, 360, 60):
            await a.send(frames[start : start + 60])
            if start < 240:
                await settled(wire)
        # Meanwhile the other direction goes on.
        await b.send(frames[:60])
        assert await a.receive(60) == frames[:60]
        await until(lambda: wire.statistics().a_to_b.in_frames == 600 + 360)
        flow = wire.statistics().a_to_b
        assert flow.drops == {"no_room": 360 - 256}
        assert balanced(flow)
        await asleep(slow)
        await a.send(frames[360:370])
        await until(lambda: wire.statistics().a_to_b.in_frames == 600 + 370)
        assert wire.statistics().a_to_b.drops == {"no_room": 370 - 256}
        # As soon as it takes frames again it is trusted again.
        assert await b.receive(256) == frames[:256]
        for start in range(0, 600, 60):
            await a.send(frames[start : start + 60])
            assert await b.receive(60) == frames[start : start + 60]
        assert (await settled(wire)).a_to_b.drops == {"no_room": 370 - 256}


async def test_other_wires_come_and_go_without_loss(dataplane: Dataplane) -> None:
    """Changes of the plan under load cost no frame."""
    async with (
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as c,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as d,
        dataplane.vwire(a.port, b.port) as wire,
    ):
        frames = [n.to_bytes(4, "big") * 15 for n in range(5000)]
        done = False

        async def change() -> int:
            changes = 0
            while not done or changes < 20:
                async with dataplane.vwire(c.port, d.port):
                    changes += 1
            return changes

        changing = asyncio.create_task(change())
        assert await carry(a, b, frames) == frames
        done = True
        assert await changing >= 20
        assert (await settled(wire)).a_to_b.out_frames == len(frames)


async def test_a_wire_that_is_taken_away_leaves_its_ports_usable(dataplane: Dataplane) -> None:
    async with (
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
    ):
        for n in range(60, 70):
            async with dataplane.vwire(a.port, b.port):
                assert await carry(a, b, [bytes(n)]) == [bytes(n)]
        with PortIO(a.port) as io:
            await a.send([bytes(60)])
            assert await read(io, 1) == [bytes(60)]


async def test_cancelled_on_the_way_in_a_wire_leaves_nothing(dataplane: Dataplane) -> None:
    async with (
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
    ):

        async def hold() -> Vwire:
            async with dataplane.vwire(a.port, b.port) as wire:
                await asyncio.Event().wait()
            return wire

        for pauses in range(4):
            task = asyncio.create_task(hold())
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert a.port.wire is b.port.wire is None
        assert dataplane.statistics().vwires == ()
