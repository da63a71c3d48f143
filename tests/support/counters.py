"""Reading counters that a worker may not have written yet."""

import asyncio

from forwarder.dataplane import Vwire, VwireStatistics


async def settled(wire: Vwire, *, still: int = 3, pause_s: float = 0.01) -> VwireStatistics:
    """Returns a vWire's statistics once they stand still.

    A frame can be seen at its destination before the burst that carried it has been counted. Call
    it when nothing is on its way any more, but perhaps still to be counted.
    """
    last, unchanged = wire.statistics(), 0
    async with asyncio.timeout(10):
        while unchanged < still:
            await asyncio.sleep(pause_s)
            now = wire.statistics()
            unchanged = unchanged + 1 if now == last else 0
            last = now
    return last
