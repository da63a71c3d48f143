"""The sweep: what is tried in which order, within a bounded time."""

import asyncio
import math
import os
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from forwarder.tuning import choice, hiccup, kernel_wire, memif_loop
from forwarder.tuning.profile import Profile

SMALL, LARGE = 64, 1500
RINGS = (8, 9, 10, 11, 12)
RING_TOLERANCE = 0.1
"""A ring of twice the size takes twice the memory and cache, which others need, too."""
WINDOWS_S = (0.0, 20e-6, 50e-6, 100e-6, 200e-6)
HICCUP_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One measurement that was made."""

    knob: str
    value: str
    told: str
    """The outcome, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A chosen value, and why."""

    knob: str
    why: str


class Sweep:
    """Measures and chooses, knob by knob; `profile` is what is chosen so far."""

    def __init__(self, *, rounds: int = 5, cpus: Sequence[int] = ()) -> None:
        """`cpus` may be used; all that this process may run on when empty. `rounds` measurements of each value."""
        self.profile = Profile()
        self._rounds = rounds
        self._cpus = sorted(cpus or os.sched_getaffinity(0))
        self._workers = choice.worker_counts(len(self._cpus))
        self._places: list[tuple[int, ...]] = [(), (self._cpus[-1],)] if len(self._cpus) > 1 else [()]

    @property
    def steps(self) -> int:
        """How many trials there will be."""
        kernel = len(WINDOWS_S) * len(self._places)
        return 1 + self._rounds * (len(RINGS) + (len(self._workers) if len(self._workers) > 1 else 0) + kernel)

    async def run(self) -> AsyncIterator[Trial | Tuned]:
        """Yields each trial, and each choice after its trials."""
        for part in (self._stall_limit, self._rings, self._workers_and_cpus, self._poll_window):
            async for each in part():
                yield each

    async def _stall_limit(self) -> AsyncIterator[Trial | Tuned]:
        away_s = await asyncio.to_thread(hiccup.usual_s, self._cpus, HICCUP_S)
        told = f"{hiccup.OFTEN} times in {HICCUP_S:g} s a CPU was away for {1e3 * away_s:.1f} ms or longer"
        yield Trial(knob="stall_limit", value="", told=told)
        self.profile = replace(self.profile, stall_limit_s=hiccup.stall_limit_s(away_s))
        yield Tuned(knob="stall_limit", why=f"{told}; a peer may need {hiccup.MARGIN} times that")

    def _setting(self, *, workers: int, log2_ring: int) -> memif_loop.Setting:
        """Puts tuned workers on the last CPUs and as many drivers on the first, where there are enough."""
        enough = len(self._cpus) >= 2 * workers
        return memif_loop.Setting(
            workers=workers,
            log2_ring_slots=log2_ring,
            cpus=self._cpus[-workers:] if enough else (),
            driver_cpus=self._cpus[:workers] if enough else (),
        )

    async def _mpps(self, *, workers: int, log2_ring: int) -> tuple[float, float]:
        setting = self._setting(workers=workers, log2_ring=log2_ring)
        small, large = [await memif_loop.frames_per_s(setting, size) / 1e6 for size in (SMALL, LARGE)]
        return small, large

    async def _rings(self) -> AsyncIterator[Trial | Tuned]:
        scores: dict[int, list[float]] = defaultdict(list)
        rates: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(self._rounds):
            found: dict[int, float] = {}
            for log2_ring in RINGS:
                small, large = await self._mpps(workers=1, log2_ring=log2_ring)
                found[log2_ring] = math.sqrt(small * large)
                rates[log2_ring].append((small, large))
                told = f"{small:.1f} Mpps of {SMALL} B, {large:.1f} Mpps of {LARGE} B"
                yield Trial(knob="memif_ring_slots", value=str(2**log2_ring), told=told)
            for log2_ring, score in choice.relative(found).items():
                scores[log2_ring].append(score)
        best = choice.first_good(scores, RING_TOLERANCE)
        self.profile = replace(self.profile, memif_ring_slots=2**best)
        small, large = (statistics.median(values) for values in zip(*rates[best], strict=True))
        why = f"{small:.1f} Mpps of {SMALL} B, {large:.1f} Mpps of {LARGE} B; " + (
            "the largest tried" if best == max(RINGS) else f"larger ones gain less than {RING_TOLERANCE:.0%}"
        )
        yield Tuned(knob="memif_ring_slots", why=why)

    async def _workers_and_cpus(self) -> AsyncIterator[Trial | Tuned]:
        if len(self._workers) == 1:
            yield Tuned(knob="workers", why=f"{len(self._cpus)} CPUs have no room for more")
            return
        rates: dict[int, list[float]] = defaultdict(list)
        for _ in range(self._rounds):
            for workers in self._workers:
                small, _ = await self._mpps(workers=workers, log2_ring=self.profile.log2_ring_slots)
                rates[workers].append(small)
                yield Trial(knob="workers", value=str(workers), told=f"{small:.1f} Mpps of {SMALL} B together")
        workers = choice.enough_workers(rates)
        self.profile = replace(self.profile, workers=workers)
        yield Tuned(knob="workers", why=f"{statistics.median(rates[workers]):.1f} Mpps of {SMALL} B together")

    async def _poll_window(self) -> AsyncIterator[Trial | Tuned]:
        """Tries the poll window with workers that are pinned and that are not; both compete with the pods."""
        scores: dict[tuple[tuple[int, ...], float], list[float]] = defaultdict(list)
        figures: dict[tuple[tuple[int, ...], float], list[kernel_wire.Figures]] = defaultdict(list)
        async with kernel_wire.pods() as pods:
            for _ in range(self._rounds):
                found: dict[tuple[tuple[int, ...], float], float] = {}
                for place in self._places:
                    for window_s in WINDOWS_S:
                        measured = await pods.measure(cpus=place, poll_window_s=window_s)
                        # A ping counts by its root: half the time is worth as much as 1.4 times the rate.
                        found[place, window_s] = measured.gbps / math.sqrt(measured.ping_us)
                        figures[place, window_s].append(measured)
                        value = f"{1e6 * window_s:.0f}us, {f'CPU {place[0]}' if place else 'not pinned'}"
                        told = f"TCP {measured.gbps:.1f} Gbit/s, ping {measured.ping_us:.0f} us"
                        yield Trial(knob="poll_window", value=value, told=told)
                for key, score in choice.relative(found).items():
                    scores[key].append(score)
        place, window_s = choice.first_good(scores)
        pinned = self._cpus[-self.profile.workers :] if place else ()
        self.profile = replace(self.profile, poll_window_s=window_s, worker_cpus=tuple(pinned))
        gbps = statistics.median(each.gbps for each in figures[place, window_s])
        ping_us = statistics.median(each.ping_us for each in figures[place, window_s])
        why = f"TCP {gbps:.1f} Gbit/s, ping {ping_us:.0f} us from kernel to kernel"
        yield Tuned(knob="worker_cpus", why=why)
        yield Tuned(knob="poll_window", why=why)
