"""What a vWire and a worker tell about their work."""

import asyncio

from forwarder.dataplane import Dataplane, Mode
from tests.support.counters import settled
from tests.support.port_kinds import KINDS


async def test_bursts_are_measured_by_their_residence_and_their_size() -> None:
    async with (
        Dataplane() as dataplane,
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port) as wire,
    ):
        for count in (1, 1, 64, 200):
            await a.send([bytes(60)] * count)
            assert len(await b.receive(count)) == count
            await settled(wire)
        seen = await settled(wire)
        flow = seen.a_to_b
        assert flow.burst_frames.total == flow.bursts
        assert set(flow.burst_frames.counts) <= {1, 3, 7, 15, 31, 63, 127, 128}
        assert 1 <= flow.burst_frames.percentile(1) <= 3  # type: ignore[operator]
        # Bursts that no clock reading has stood for yet are those since the last timed turn.
        assert flow.bursts - 8 <= flow.residence_ns.total <= flow.bursts
        assert 0 < flow.busy_ns <= sum(value * count for value, count in flow.residence_ns.counts.items())
        assert flow.residence_ns.percentile(50) < 1e9  # type: ignore[operator]
        assert seen.b_to_a.residence_ns.total == seen.b_to_a.burst_frames.total == seen.b_to_a.busy_ns == 0
        worker = dataplane.statistics().workers[0]
        assert worker.busy_ns >= flow.busy_ns


async def test_a_worker_without_frames_is_not_busy() -> None:
    async with (
        Dataplane() as dataplane,
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as a,
        KINDS["memif-client"](dataplane, Mode.ETHERNET) as b,
        dataplane.vwire(a.port, b.port),
    ):
        await asyncio.sleep(0.05)
        assert dataplane.statistics().workers[0].busy_ns == 0
