"""A model of plans and hand-overs: whatever control does, every frame is accounted for.

Hypothesis makes up what happens: ports open, close, lose their peer and find it again; vWires come, go, exchange
their ports and move between workers, with frames under way or not; the workers stop before what they run, and new
ones begin. Beside the data plane goes a reference: a port is a queue of the frames its peer has sent, a vWire takes
them from the one port to the other.

After each step each vWire has counted exactly what the reference says, each peer has received exactly the frames that
were for it, in order, and nobody any other. `VWIRE_MODEL_EXAMPLES=1000` looks longer.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from forwarder.dataplane import Dataplane, FlowStatistics, Mode, Vwire
from tests.support.port_kinds import KINDS, Rig

EXAMPLES = int(os.environ.get("VWIRE_MODEL_EXAMPLES", "8"))
STEPS = 25
PORTS = 8
ON_THE_WAY = 60
"""Frames that fit into every port while nobody takes them out."""
KERNEL_PORTS = 1
"""At once: opening and closing one takes ten times as long as everything else."""
HEADER = bytes.fromhex("02000000000b 02000000000a 88b5")
PATIENCE_S = 10.0

picks = st.integers(0, 2**16)
counts = st.integers(1, 20)
lengths = st.sampled_from([60, 61, 590, 1514, 3000])


@dataclass(eq=False)
class Side:
    """A port, who is at its other end, and what that one has sent and nobody has received yet."""

    kind: str
    rig: Rig
    stack: AsyncExitStack
    number: int
    linked: bool = True
    sent: int = 0
    waiting: list[bytes] = field(default_factory=list)
    missed: int = 0
    wire: "Wire | None" = None

    @property
    def kernel(self) -> bool:
        return self.kind.startswith("kernel")

    def make(self, count: int, length: int) -> list[bytes]:
        """Makes the next frames of this port; each is there once in the whole run."""
        length = min(length, self.rig.longest)
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        return [
            (HEADER + self.number.to_bytes(4, "big") + n.to_bytes(4, "big")).ljust(length, bytes([n % 251]))
            for n in numbers
        ]

    async def drain(self) -> list[bytes]:
        """Returns what arrives here that should not."""
        return await self.rig.receive(1, 0.0005) if self.linked else []


@dataclass
class Lane:
    """What one direction must have counted."""

    frames: int = 0
    out: int = 0
    drops: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Wire:
    """A vWire, and what it must have counted from `a` and from `b`."""

    a: Side
    b: Side
    vwire: Vwire
    stack: AsyncExitStack
    lanes: dict[Side, Lane]

    def other(self, side: Side) -> Side:
        return self.b if side is self.a else self.a

    def counted(self, side: Side) -> FlowStatistics:
        statistics = self.vwire.statistics()
        return statistics.a_to_b if side is self.a else statistics.b_to_a


async def until(condition: object, what: str) -> None:
    """Waits for what no event tells of."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # type: ignore[operator]  # noqa: ASYNC110
                await asyncio.sleep(0.0002)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about") from None


class Plans(RuleBasedStateMachine):
    """The data plane and the reference, side by side."""

    workers = 1

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.sides: list[Side] = []
        self.wires: list[Wire] = []
        self.moves = 0
        self.numbers = 0

    def run(self, work: Coroutine[object, object, None]) -> None:
        self.runner.run(work)

    @initialize(kinds=st.tuples(*[st.sampled_from(sorted(KINDS)) for _ in range(4)]))
    def begin(self, kinds: Sequence[str]) -> None:
        async def work() -> None:
            await self._start()
            for kind in kinds:
                await self._open(kind)
            for a, b in (self.sides[:2], self.sides[2:]):
                await self._join(a, b)

        self.run(work())

    async def _start(self) -> None:
        self.dataplane = await Dataplane(workers=self.workers, rebalance_interval_s=0).__aenter__()
        self.moves = 0

    def teardown(self) -> None:
        async def work() -> None:
            for wire in list(self.wires):
                await self._remove(wire)
            for side in list(self.sides):
                await self._close(side)
            if hasattr(self, "dataplane"):
                await self.dataplane.__aexit__(None, None, None)

        try:
            self.run(work())
        finally:
            self.runner.close()

    # --- What can be chosen ---

    @property
    def free(self) -> list[Side]:
        return [side for side in self.sides if side.wire is None]

    @property
    def senders(self) -> list[Side]:
        return [side for side in self.sides if side.linked and len(side.waiting) < ON_THE_WAY]

    @property
    def wired_senders(self) -> list[Side]:
        return [side for side in self.senders if side.wire is not None]

    # --- Ports ---

    @precondition(lambda self: len(self.sides) < PORTS)
    @rule(kind=st.sampled_from(sorted(KINDS)))
    def open_port(self, kind: str) -> None:
        self.run(self._open(kind))

    async def _open(self, kind: str) -> None:
        if kind.startswith("kernel") and sum(side.kernel for side in self.sides) >= KERNEL_PORTS:
            kind = "memif-server"
        stack = AsyncExitStack()
        rig = await stack.enter_async_context(KINDS[kind](self.dataplane, Mode.ETHERNET))
        self.sides.append(Side(kind=kind, rig=rig, stack=stack, number=self.numbers))
        self.numbers += 1

    @precondition(lambda self: self.free)
    @rule(pick=picks)
    def close_port(self, pick: int) -> None:
        """What still waits in it is lost with it."""
        side = self.free[pick % len(self.free)]
        self.run(self._close(side))

    async def _close(self, side: Side) -> None:
        assert side.wire is None
        self.sides.remove(side)
        await side.stack.aclose()
        if not side.kernel:
            side.missed += len(side.waiting)
            assert side.rig.port.statistics().missed == side.missed

    @precondition(lambda self: any(side.linked for side in self.sides))
    @rule(pick=picks, count=counts)
    def hang_up(self, pick: int, count: int) -> None:
        """The peer of a port goes, just after its last frames; those that no worker took are counted as missed."""
        linked = [side for side in self.sides if side.linked]
        side = linked[pick % len(linked)]
        if side.kernel and side.waiting:
            return  # they would stay in the kernel's queue
        frames = [] if side.kernel or side not in self.senders else side.make(count, 60)
        self.run(self._hang_up(side, frames))

    async def _hang_up(self, side: Side, frames: list[bytes]) -> None:
        port, wire = side.rig.port, side.wire

        def received() -> int:
            return wire.counted(side).in_frames if wire is not None else 0

        def missed() -> int:
            return port.statistics().missed - side.missed

        if frames:
            await side.rig.send(frames)
            side.waiting += frames
        side.rig.hang_up()
        side.linked = False
        await until(lambda: not port.connected, f"the end of {side.kind} {side.number}")
        if side.kernel:
            return
        # Neither counts before the worker has let go of the memory.
        had = wire.lanes[side].frames if wire is not None else 0
        await until(lambda: received() - had + missed() == len(side.waiting), f"each of {len(side.waiting)} frames")
        lost = missed()
        side.missed += lost
        if wire is not None:
            await self._carried(wire, side, len(side.waiting) - lost)
        assert len(side.waiting) == lost
        side.waiting.clear()

    @precondition(lambda self: any(not side.linked for side in self.sides))
    @rule(pick=picks)
    def come_back(self, pick: int) -> None:
        away = [side for side in self.sides if not side.linked]
        side = away[pick % len(away)]

        async def work() -> None:
            await asyncio.to_thread(side.rig.come_back)
            await until(lambda: side.rig.port.connected, f"the return of {side.kind} {side.number}")

        self.run(work())
        side.linked = True

    # --- vWires ---

    @precondition(lambda self: len(self.free) >= 2)
    @rule(pick=picks, other=picks)
    def join(self, pick: int, other: int) -> None:
        a = self.free[pick % len(self.free)]
        rest = [side for side in self.free if side is not a]
        self.run(self._join(a, rest[other % len(rest)]))

    async def _join(self, a: Side, b: Side) -> None:
        """Joins two ports; what waits in them goes to the other."""
        stack = AsyncExitStack()
        vwire = await stack.enter_async_context(
            self.dataplane.vwire(a.rig.port, b.rig.port, name=f"{a.number}-{b.number}")
        )
        wire = Wire(a=a, b=b, vwire=vwire, stack=stack, lanes={a: Lane(), b: Lane()})
        a.wire = b.wire = wire
        self.wires.append(wire)
        await self._all_carried(wire)

    @precondition(lambda self: self.wires)
    @rule(pick=picks)
    def remove(self, pick: int) -> None:
        self.run(self._remove(self.wires[pick % len(self.wires)]))

    async def _remove(self, wire: Wire) -> None:
        self.wires.remove(wire)
        await wire.stack.aclose()
        wire.a.wire = wire.b.wire = None

    @precondition(lambda self: self.wires)
    @rule(pick=picks, worker=picks)
    def move(self, pick: int, worker: int) -> None:
        self.run(self._move(self.wires[pick % len(self.wires)], worker))

    async def _move(self, wire: Wire, worker: int) -> None:
        control = self.dataplane._controls[worker % self.workers]
        self.moves += wire.vwire.worker is not control.worker
        await self.dataplane._placement.move(wire.vwire, control)
        assert wire.vwire.worker is control.worker

    @precondition(lambda self: len(self.wires) >= 2)
    @rule(pick=picks)
    def swap_ports(self, pick: int) -> None:
        """Two vWires exchange their far ports; frames that wait go where their port goes."""
        one = self.wires[pick % len(self.wires)]
        another = self.wires[(pick + 1) % len(self.wires)]
        self.run(self._swap(one, another))

    async def _swap(self, one: Wire, another: Wire) -> None:
        await asyncio.gather(self._remove(one), self._remove(another))
        await self._join(one.a, another.b)
        await self._join(another.a, one.b)

    # --- Frames ---

    @precondition(lambda self: self.senders)
    @rule(pick=picks, count=counts, length=lengths)
    def send(self, pick: int, count: int, length: int) -> None:
        side = self.senders[pick % len(self.senders)]
        self.run(self._send(side, side.make(count, length)))

    async def _send(self, side: Side, frames: list[bytes]) -> None:
        """Sends one by one, so that other things happen in between."""
        side.waiting += frames

        def trickle() -> None:
            for frame in frames:
                side.rig.far.send_all([frame])

        await asyncio.to_thread(trickle)

    @precondition(lambda self: self.wired_senders)
    @rule(pick=picks, length=lengths, worker=st.lists(picks, min_size=1, max_size=4))
    def move_under_way(self, pick: int, length: int, worker: list[int]) -> None:
        side = self.wired_senders[pick % len(self.wired_senders)]
        wire = side.wire
        assert wire is not None
        frames = side.make(ON_THE_WAY - len(side.waiting), length)

        async def about() -> None:
            for each in worker:
                await self._move(wire, each)

        async def work() -> None:
            await asyncio.gather(self._send(side, frames), about())

        self.run(work())

    @precondition(lambda self: self.wired_senders)
    @rule(pick=picks, length=lengths)
    def remove_under_way(self, pick: int, length: int) -> None:
        """What the vWire has received it delivers; the rest waits for whom the port is joined to next."""
        side = self.wired_senders[pick % len(self.wired_senders)]
        wire = side.wire
        assert wire is not None
        frames = side.make(ON_THE_WAY, length)

        async def work() -> None:
            await asyncio.gather(self._send(side, frames), self._remove(wire))
            await self._carried(wire, side, wire.counted(side).in_frames - wire.lanes[side].frames)

        self.run(work())

    @precondition(lambda self: len(self.wires) >= 2)
    @rule(pick=picks, length=lengths)
    def swap_under_way(self, pick: int, length: int) -> None:
        one = self.wires[pick % len(self.wires)]
        another = self.wires[(pick + 1) % len(self.wires)]
        sources = [side for side in (one.a, another.a) if side in self.senders]

        async def work() -> None:
            sending = [asyncio.create_task(self._send(side, side.make(ON_THE_WAY, length))) for side in sources]
            await asyncio.gather(self._remove(one), self._remove(another))
            for wire in (one, another):
                await self._carried(wire, wire.a, wire.counted(wire.a).in_frames - wire.lanes[wire.a].frames)
            await asyncio.gather(*sending)
            await self._join(one.a, another.b)
            await self._join(another.a, one.b)

        self.run(work())

    @rule(pick=picks, length=lengths)
    def restart(self, pick: int, length: int) -> None:
        """The workers stop while frames are under way and vWires in their plans; new ones begin with new ports."""
        sides = self.wired_senders
        side = sides[pick % len(sides)] if sides else None

        async def work() -> None:
            sending = asyncio.create_task(self._send(side, side.make(ON_THE_WAY, length))) if side else None
            await asyncio.sleep(0)
            await self.dataplane.__aexit__(None, None, None)
            if sending:
                await sending
            old = list(self.wires)
            for wire in old:
                for each in (wire.a, wire.b):
                    await self._carried(wire, each, wire.counted(each).in_frames - wire.lanes[each].frames)
                await self._remove(wire)
            again = {}
            for each in list(self.sides):
                await self._close(each)
            await self._start()
            for wire in old:
                for each in (wire.a, wire.b):
                    await self._open(each.kind)
                    again[each] = self.sides[-1]
                await self._join(again[wire.a], again[wire.b])

        self.run(work())

    # --- What must be ---

    async def _carried(self, wire: Wire, side: Side, count: int) -> None:
        """Lets the reference carry `count` of the frames that wait in `side`, and looks whether they came."""
        sink, lane = wire.other(side), wire.lanes[side]
        frames, side.waiting[:count] = side.waiting[:count], []
        lane.frames += count
        if sink.linked:
            fitting = [frame for frame in frames if len(frame) <= sink.rig.longest]
            arrived = await sink.rig.receive(len(fitting))
            assert arrived == fitting, f"{len(arrived)} of {len(fitting)} frames of {wire.vwire}"
            lane.drops["too_big"] += len(frames) - len(fitting)
            lane.out += len(fitting)
        else:
            lane.drops["link_down"] += count

    async def _all_carried(self, wire: Wire) -> None:
        for side in (wire.a, wire.b):
            if side.waiting:
                await self._carried(wire, side, len(side.waiting))

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        async def work() -> None:
            for wire in self.wires:
                await self._all_carried(wire)
                for side in (wire.a, wire.b):
                    lane = wire.lanes[side]
                    await until(lambda: wire.counted(side).in_frames >= lane.frames, f"{lane} of {wire.vwire}")  # noqa: B023
                    counted = wire.counted(side)
                    assert (counted.in_frames, counted.out_frames) == (lane.frames, lane.out)
                    assert counted.drops == {reason: count for reason, count in lane.drops.items() if count}
            for side in self.sides:
                assert await side.drain() == []
            statistics = self.dataplane.statistics()
            assert sum(worker.vwires for worker in statistics.workers) == len(statistics.vwires) == len(self.wires)
            assert statistics.moves == self.moves

        self.run(work())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_frame_is_accounted_for_whatever_control_does(workers: int) -> None:
    machine = type(f"PlansOf{workers}", (Plans,), {"workers": workers})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
