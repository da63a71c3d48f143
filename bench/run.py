"""What a script is asked to do."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TypeVar

from bench.trees import THIS, Tree

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a script."""

    ids: Set[str]
    """What is wanted of the numbers it can measure."""
    quick: bool = False
    trees: Sequence[Tree] = field(default_factory=lambda: [THIS])

    def times(self, full: int, quick: int) -> int:
        """Returns how often to do something."""
        return quick if self.quick else full


def in_turn(contestants: Sequence[T], turn: int) -> list[T]:
    """Returns all of them, beginning with another one each turn, so that none is always first."""
    first = turn % len(contestants)
    return [*contestants[first:], *contestants[:first]]
