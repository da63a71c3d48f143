"""What a script has measured, the row that becomes of it, and where rows are kept."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.goals import GOALS, holds

ROOT = Path(__file__).parents[1]
FILE = ROOT / "bench" / "results.json"

Samples = Mapping[str, Sequence[float]]
"""What was measured, by whom: vwire, or its peers by their names."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One number of the table, as measured, for all who took turns."""

    id: str
    unit: str
    samples: Samples
    baseline: str = ""
    """Whom to compare with; empty when the number stands alone."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Whom else to compare with: `copy` gives the fields `copy` and `copy_ratio`."""
    further: Mapping[str, Samples] = field(default_factory=dict)
    """Other figures of the same run: `p99` gives `p99`, `p99_baseline` and `p99_ratio`."""
    regime: str = ""
    """"near" or "far": how far apart the two CPUs were (README)."""
    direction: str = ""
    note: str = ""


def median(values: Sequence[float]) -> float:
    """Returns the median, to four digits."""
    return rounded(statistics.median(values))


def rounded(number: float) -> float:
    """Returns a number to four significant digits."""
    return float(f"{number:.4g}")


def quartiles(values: Sequence[float]) -> list[float]:
    """Returns the lower and the upper quartile."""
    if len(values) < 2:
        return [rounded(values[0])] * 2
    cut = statistics.quantiles(values, n=4)
    return [rounded(cut[0]), rounded(cut[2])]


def ratio(ours: Sequence[float], others: Sequence[float]) -> float | None:
    """Returns how many times the others' median ours is; None for a median of nothing."""
    theirs = statistics.median(others)
    return rounded(statistics.median(ours) / theirs) if theirs else None


def row(measured: Measured, contestant: str, run: Mapping[str, Any]) -> Row:
    """Makes the row of one contestant; `run` is what all rows of a run have in common."""
    goal = GOALS[measured.id]
    ours = measured.samples[contestant]
    baseline = measured.samples.get(measured.baseline)
    made: Row = {
        "id": measured.id,
        "unit": measured.unit,
        "ours": median(ours),
        "baseline": median(baseline) if baseline else None,
        "baseline_name": measured.baseline if baseline else "",
        "ratio": ratio(ours, baseline) if baseline else None,
        "runs": len(ours),
        "spread": quartiles(ours),
    }
    further: Row = {}
    for name, other in measured.references.items():
        if theirs := measured.samples.get(other):
            further |= {name: median(theirs), f"{name}_name": other, f"{name}_ratio": ratio(ours, theirs)}
    for name, samples in measured.further.items():
        further[name] = median(samples[contestant])
        if theirs := samples.get(measured.baseline):
            further |= {f"{name}_baseline": median(theirs), f"{name}_ratio": ratio(samples[contestant], theirs)}
    if measured.unit == "Mpps":
        further["ns_per_frame"] = rounded(1e3 / made["ours"]) if made["ours"] else None
    for name in ("regime", "direction", "note"):
        if text := getattr(measured, name):
            further[name] = text
    judged = made | further
    return (
        made | {"at_least": goal.at_least, "aim": goal.aim, "holds": holds(goal.at_least, judged)} | further | dict(run)
    )


def machine() -> str:
    """Says what the numbers were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_mib = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    return f"{os.cpu_count()} x {cpu}, {memory_mib} MiB, Linux {platform.release()}, Python {platform.python_version()}"


def commit(root: Path = ROOT) -> str:
    """Returns the commit that was measured, with a plus when the tree differs from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def this_run(*, quick: bool) -> Row:
    """Returns what all rows of a run have in common."""
    measured = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"mode": "quick" if quick else "full", "measured": measured, "commit": commit(), "machine": machine()}


def load(path: Path = FILE) -> list[Row]:
    """Returns the rows that are kept."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    return rows


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Returns rows in the table's order, one way before both ways, near before far."""
    ids = list(GOALS)

    def place(row: Row) -> tuple[int, bool, bool]:
        known = ids.index(row["id"]) if row["id"] in ids else len(ids)
        return known, row.get("direction") == "both ways", row.get("regime") == "far"

    return sorted(rows, key=place)


def save(rows: Sequence[Row], path: Path = FILE) -> None:
    """Puts rows into the file, in place of earlier ones of the same ids."""
    renewed = {row["id"] for row in rows}
    kept = ordered([row for row in load(path) if row["id"] not in renewed] + list(rows))
    path.write_text("[\n" + ",\n".join(" " + json.dumps(row, ensure_ascii=False) for row in kept) + "\n]\n")
