"""Whose turn it is among those that may serve."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

T = TypeVar("T")

LIMIT: Final = 1024
"""How many keys are remembered; those not asked for longest begin anew."""


class RoundRobin:
    """A turn for each key, one step for each attempt."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, int] = OrderedDict()

    def in_turn(self, key: str, candidates: Sequence[T]) -> Iterator[T]:
        """Goes once through `candidates`, beginning with the one whose turn it is.

        Each one taken moves the turn of `key` on, so that whoever comes next begins behind it.
        """
        start = self._turns.get(key, 0)
        for step in range(len(candidates)):
            self._turns[key] = self._turns.get(key, 0) + 1
            self._turns.move_to_end(key)
            if len(self._turns) > LIMIT:
                self._turns.popitem(last=False)
            yield candidates[(start + step) % len(candidates)]
