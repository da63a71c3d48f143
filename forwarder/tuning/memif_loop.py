"""Frames that go round and round: what a data plane carries from memif to memif.

```
        driver                       tuned
  server ─── memif ───────────▶ client
    ▲                             │ vWire, whose worker is measured
  server ◀── memif ───────────── client
```

The tuned side owns the memory, so that the rings are of its size. Three quarters of a ring are
filled once; from then on nobody makes or drops a frame, and two workers hand them on as fast as the
slower one can.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from forwarder.dataplane import Dataplane, PortIO
from forwarder.dataplane.spec import MemifPortSpec, Role
from forwarder.errors import DataplaneError

FILL = 0.75
WARM_S, RUN_S = 0.05, 0.15
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is tried."""

    workers: int
    log2_ring_slots: int
    cpus: Sequence[int] = ()
    """The tuned workers'; empty for wherever the kernel puts them."""
    driver_cpus: Sequence[int] = ()


async def frames_per_s(setting: Setting, frame_bytes: int) -> float:
    """Returns what the tuned workers carry, all together, a loop for each of them.

    Raises DataplaneError when frames get lost, which they cannot.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vwire-tune-"))
        planes = [
            await stack.enter_async_context(Dataplane(workers=setting.workers, cpus=cpus, poll_window_us=1000))
            for cpus in (setting.cpus, setting.driver_cpus)
        ]
        tuned, driver = planes
        for number in range(setting.workers):
            await _loop(stack, tuned, driver, f"{folder}/{number}", setting.log2_ring_slots, frame_bytes)
        await asyncio.sleep(WARM_S)
        start, before = time.monotonic(), _carried(tuned)
        await asyncio.sleep(RUN_S)
        rate = (_carried(tuned) - before) / (time.monotonic() - start)
        flows = [flow for wire in tuned.statistics().vwires for flow in (wire.a_to_b, wire.b_to_a)]
        if dropped := sum(flow.dropped_frames for flow in flows):
            raise DataplaneError(f"{dropped} frames were dropped on their way round two data planes")
        return rate


async def _loop(
    stack: AsyncExitStack, tuned: Dataplane, driver: Dataplane, stem: str, log2_ring: int, frame_bytes: int
) -> None:
    """Makes one loop and fills it."""
    ports = {}
    for plane, role in ((driver, Role.SERVER), (tuned, Role.CLIENT)):
        for end in "ab":
            spec = MemifPortSpec(role=role, address=f"{stem}-{end}", log2_ring_size=log2_ring)
            ports[role, end] = await stack.enter_async_context(plane.memif_port(spec))
    async with asyncio.timeout(PATIENCE_S):
        for port in ports.values():
            await port.wait_connected()
    with PortIO(ports[Role.SERVER, "a"]) as source:
        source.write(bytes(frame_bytes) for _ in range(int(FILL * 2**log2_ring)))
    await stack.enter_async_context(driver.vwire(ports[Role.SERVER, "a"], ports[Role.SERVER, "b"], name="driver"))
    await stack.enter_async_context(tuned.vwire(ports[Role.CLIENT, "a"], ports[Role.CLIENT, "b"], name="tuned"))


def _carried(plane: Dataplane) -> int:
    return sum(wire.a_to_b.out_frames + wire.b_to_a.out_frames for wire in plane.statistics().vwires)
