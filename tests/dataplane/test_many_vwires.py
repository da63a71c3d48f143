"""Hundreds of vWires in one process: each carries its own frames, and none costs anything while nothing moves."""

import asyncio

from tests.support.many_vwires import many_vwires

COUNT = 200


async def test_each_of_hundreds_carries_its_own_frames_and_all_fall_silent():
    async with many_vwires(COUNT) as many:
        await many.carry_on_each()
        told = many.dataplane.statistics()
        for vwire in told.vwires:
            for flow in (vwire.a_to_b, vwire.b_to_a):
                assert (flow.in_frames, flow.out_frames) == (1, 1), vwire.name

        # A vWire is looked at again a few times after its last frame, 100 ms apart at most: then by nobody.
        async with asyncio.timeout(20):
            while await looks_within(many, 0.3):
                pass


async def looks_within(many, seconds):
    before = many.dataplane.statistics().workers[0].looks
    await asyncio.sleep(seconds)
    return many.dataplane.statistics().workers[0].looks - before
