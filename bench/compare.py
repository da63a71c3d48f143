"""Two commits beside each other, from one run."""

from collections.abc import Sequence

from rich.table import Table

from bench.goals import GOALS
from bench.report import as_text
from bench.results import Measured, median, quartiles, ratio


def told(measured: Sequence[Measured], first: str, second: str) -> str:
    """Writes what both measured, and the second over the first."""
    table = Table(box=None, pad_edge=False)
    for name in ("id", "", "unit", first, "quartiles", second, "quartiles", "ratio", ""):
        table.add_column(name, no_wrap=True)
    for each in measured:
        add(table, each, "", each.samples, first, second)
        for name, samples in each.further.items():
            add(table, each, name, samples, first, second)
    return as_text(table)


def add(table: Table, each: Measured, name: str, samples, first: str, second: str) -> None:  # type: ignore[no-untyped-def]
    """Adds one figure."""
    a, b = samples[first], samples[second]
    shift = ratio(b, a)
    verdict = ""
    if not name and shift is not None and not overlap(quartiles(a), quartiles(b)):
        verdict = "better" if (shift > 1) is GOALS[each.id].more_is_better else "worse"
    table.add_row(
        each.id,
        ", ".join(text for text in (name, each.direction, each.regime) if text),
        "" if name else each.unit,
        f"{median(a):g}",
        "{:g} to {:g}".format(*quartiles(a)),
        f"{median(b):g}",
        "{:g} to {:g}".format(*quartiles(b)),
        "" if shift is None else f"{shift:g}",
        verdict,
    )


def overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Says whether two ranges have something in common."""
    return a[0] <= b[1] and b[0] <= a[1]
