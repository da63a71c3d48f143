"""Which worker runs which vWire, and moving them from one running worker to another."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from forwarder.dataplane.placement_policy import UNEVEN, Damper, Load, least_loaded
from forwarder.dataplane.running_task import running_task
from forwarder.dataplane.vwire import Vwire
from forwarder.dataplane.worker_control import WorkerControl, outlast


class Placement:
    """The vWires of all workers. With several workers and while `rebalancing` it evens out their loads."""

    def __init__(self, controls: Sequence[WorkerControl]) -> None:
        """Does nothing yet."""
        self._controls = controls
        self._at: dict[Vwire, WorkerControl] = {}
        self._moves: dict[Vwire, asyncio.Task[None]] = {}
        self._damper: Damper[Vwire] = Damper()
        self._looked_at = 0.0
        self._worker_ns = [0 for _ in controls]
        self._wire_ns: dict[Vwire, int] = {}
        self._shares = [0.0 for _ in controls]
        self.moved = 0
        """How often a vWire was moved."""

    @property
    def wires(self) -> tuple[Vwire, ...]:
        """All vWires, in the order they came."""
        return tuple(self._at)

    def control_of(self, wire: object) -> WorkerControl | None:
        """Returns whose worker runs a vWire just now, or has not let go of it yet; None if none does."""
        if not isinstance(wire, Vwire):
            return None
        return next((control for control in self._controls if control.worker is wire.worker), None)

    @asynccontextmanager
    async def run(self, wire: Vwire) -> AsyncIterator[None]:
        """Runs `wire` for as long as the context lasts.

        On leaving, its worker has let go of it before this returns, so its ports can be closed next.
        """
        control = self._controls[least_loaded(self._shares, [len(each.wires) for each in self._controls])]
        self._at[wire] = control
        try:
            await control.add(wire)
            yield
        finally:
            try:
                if (move := self._moves.get(wire)) is not None:
                    await outlast(move)
            finally:
                await self._at.pop(wire).remove(wire)

    async def move(self, wire: Vwire, control: WorkerControl) -> None:
        """Has another worker run `wire`; no frame is lost, doubled or overtaken.

        The one has let go of it before the other begins; meanwhile frames wait where they came from.
        Nothing happens to one that is moving already, or is not run any more. A caller that is
        cancelled gets its cancellation when it is done.
        """
        if wire in self._moves or self._at.get(wire, control) is control:
            return
        task = asyncio.create_task(self._hand_over(wire, control), name=f"move of {wire.name}")
        self._moves[wire] = task
        await outlast(task)

    async def _hand_over(self, wire: Vwire, control: WorkerControl) -> None:
        source = self._at[wire]
        try:
            await source.remove(wire)
            try:
                await control.add(wire)
            except BaseException:
                await source.add(wire)
                raise
            self._at[wire] = control
            self.moved += 1
        finally:
            del self._moves[wire]

    @asynccontextmanager
    async def rebalancing(self, interval_s: float) -> AsyncIterator[None]:
        """Looks at the loads every `interval_s`, as long as the context lasts."""
        async with running_task(self._rebalance(interval_s), "rebalancing"):
            yield

    async def _rebalance(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            await self.look(asyncio.get_running_loop().time())

    async def look(self, now: float) -> None:
        """Reads the loads since the last look, and makes one move if it is worth it. `now` is in seconds."""
        ns, self._looked_at = (now - self._looked_at) * 1e9, now
        worker_ns = [control.worker.busy_ns for control in self._controls]
        self._shares = [(after - before) / ns for after, before in zip(worker_ns, self._worker_ns, strict=True)]
        self._worker_ns = worker_ns
        # While nobody is busy, nobody looks at ten thousand vWires.
        wire_ns = {wire: wire.busy_ns for wire in self._at} if max(self._shares) >= UNEVEN else {}
        known = wire_ns.keys() & self._wire_ns.keys()
        loads = [
            Load(share, {wire: (wire_ns[wire] - self._wire_ns[wire]) / ns for wire in control.wires if wire in known})
            for share, control in zip(self._shares, self._controls, strict=True)
        ]
        self._wire_ns = wire_ns
        decision = self._damper.decide(loads, now)
        if decision is not None:
            wire, _, to = decision
            await self.move(wire, self._controls[to])
