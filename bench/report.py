"""The table in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.goals import parts
from bench.results import Row

NATURAL = 1000
"""Wider than any table: a line of it is never broken or cut."""


def variant(row: Row) -> str:
    """Says which of the rows of an id it is: direction and distance of the CPUs."""
    return ", ".join(row[name] for name in ("direction", "regime") if row.get(name))


def judged(row: Row) -> str:
    """Says the limit, and beside each part of it what was reached."""
    told = (
        f"{name} {comparison} {limit:g} ({_short(row.get(name))})" for name, comparison, limit in parts(row["at_least"])
    )
    return ", ".join(told)


def _short(number: float | None) -> str:
    if number is None:
        return "not measured"
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def told(rows: Sequence[Row]) -> str:
    """Writes rows as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("id", "", "median", "quartiles", "n", "compared with", "at least (reached)", "holds"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("median", "n") else "left")
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g} × "
        compared = "" if row["baseline"] is None else f"{ratio}{row['baseline_name']} ({_short(row['baseline'])})"
        table.add_row(
            row["id"],
            variant(row),
            f"{row['ours']:.4g} {row['unit']}",
            " to ".join(map(_short, row["spread"])),
            str(row["runs"]),
            compared,
            judged(row),
            "yes" if row["holds"] else "NO",
        )
    return as_text(table)


def as_text(table: Table) -> str:
    """Renders a table in its natural width."""
    console = Console(width=NATURAL, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
