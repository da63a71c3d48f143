"""The table in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.goals import parts
from bench.results import Row

WIDTH = 200


def variant(row: Row) -> str:
    """Says which of the rows of an id it is: direction and distance of the CPUs."""
    return ", ".join(row[name] for name in ("direction", "regime") if row.get(name))


def reached(row: Row) -> str:
    """Says what the fields that the limit is about are."""
    return ", ".join(f"{name} {row.get(name)}" for name, _, _ in parts(row["at_least"]))


def told(rows: Sequence[Row]) -> str:
    """Writes rows as a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("id", "", "ours", "quartiles", "n", "baseline", "ratio", "at least", "reached", "holds"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("ours", "n", "ratio") else "left")
    for row in rows:
        baseline = "" if row["baseline"] is None else f"{row['baseline']:g} {row['baseline_name']}"
        table.add_row(
            row["id"],
            variant(row),
            f"{row['ours']:g} {row['unit']}",
            f"{row['spread'][0]:g} to {row['spread'][1]:g}",
            str(row["runs"]),
            baseline,
            "" if row["ratio"] is None else f"{row['ratio']:g}",
            row["at_least"],
            reached(row),
            "yes" if row["holds"] else "NO",
        )
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()
