"""Choosing among what was measured. Pure."""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

TOLERANCE = 0.03
"""Differences below this are noise."""


def relative(found: Mapping[T, float]) -> dict[T, float]:
    """Returns what one round found, each over the round's median.

    What a host gives changes from second to second, tenfold where its CPUs are now near to each
    other and now far apart; values of the same round were taken beside each other.
    """
    middle = statistics.median(found.values())
    return {candidate: value / middle for candidate, value in found.items()}


def first_good(scores: Mapping[T, Sequence[float]], tolerance: float = TOLERANCE) -> T:
    """Returns the first candidate whose median is within `tolerance` of the best; more is better.

    So list the cheapest first; the tolerance is what may be given up for it.
    """
    medians = {candidate: statistics.median(values) for candidate, values in scores.items()}
    best = max(medians.values())
    return next(candidate for candidate, median in medians.items() if median >= (1 - tolerance) * best)


def worker_counts(cpus: int) -> list[int]:
    """Returns how many workers to try: powers of two, while each still leaves a CPU to somebody else."""
    return [count for count in (1, 2, 4, 8) if count == 1 or 2 * count <= cpus]


def enough_workers(rates: Mapping[int, Sequence[float]]) -> int:
    """Returns the most workers of which each doubling gained at least a third; more would take CPUs for little."""
    chosen, before = 0, 0.0
    for count, values in sorted(rates.items()):
        rate = statistics.median(values)
        if chosen and rate < before * 4 / 3:
            break
        chosen, before = count, rate
    return chosen
