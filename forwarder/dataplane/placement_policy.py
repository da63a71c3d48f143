"""Which vWire goes to which worker: decisions by load, without any thread.

A load is a share of one worker's time: 1.0 is a worker that never rests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")
"""What stands for a vWire."""

UNEVEN = 0.2
"""How much busier than the idlest the busiest worker is before anything moves."""
GAIN = 0.1
"""How much a move must take off the busiest worker."""
LOOKS = 3
"""How many looks in a row find the same imbalance first."""
REST_S = 10.0
"""How long a vWire that was moved stays where it is."""


@dataclass(frozen=True, slots=True)
class Load(Generic[K]):
    """One worker since the last look."""

    share: float
    wires: Mapping[K, float] = field(default_factory=dict)
    """Each of its vWires' part in that."""


def least_loaded(shares: Sequence[float], wires: Sequence[int]) -> int:
    """Returns which worker a new vWire goes to: the idlest, of those about equally idle the one with the fewest."""
    return min(range(len(shares)), key=lambda number: (round(shares[number] * 10), wires[number]))


def best_move(loads: Sequence[Load[K]], resting: frozenset[K] = frozenset()) -> tuple[K, int, int] | None:
    """Returns the vWire to move, from where and to where; None when none is worth it.

    That which leaves the busier of the two workers least busy. A worker that is busy with one
    vWire alone keeps it: another would be just as busy.
    """
    busiest = max(range(len(loads)), key=lambda number: loads[number].share)
    idlest = min(range(len(loads)), key=lambda number: loads[number].share)
    high, low = loads[busiest].share, loads[idlest].share
    if high - low < UNEVEN:
        return None
    after = {wire: max(high - part, low + part) for wire, part in loads[busiest].wires.items() if wire not in resting}
    wire = min(after, key=lambda wire: after[wire], default=None)
    if wire is None or after[wire] > high - GAIN:
        return None
    return wire, busiest, idlest


class Damper(Generic[K]):
    """Lets a move through when several looks in a row wanted one the same way, and no vWire twice soon."""

    def __init__(self) -> None:
        """Has seen nothing."""
        self._way: tuple[int, int] | None = None
        self._looks = 0
        self._moved: dict[K, float] = {}

    def decide(self, loads: Sequence[Load[K]], now: float) -> tuple[K, int, int] | None:
        """Returns the move to make at `now`, in seconds; see `best_move`."""
        self._moved = {wire: at for wire, at in self._moved.items() if now - at < REST_S}
        move = best_move(loads, frozenset(self._moved))
        way = move[1:] if move is not None else None
        self._looks = self._looks + 1 if way is not None and way == self._way else int(way is not None)
        self._way = way
        if move is None or self._looks < LOOKS:
            return None
        self._looks = 0
        self._moved[move[0]] = now
        return move
