"""A measured number with what is needed to judge it, and where numbers are kept."""

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "bench" / "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number."""

    id: str
    """Stable name: what was measured, as words with dashes."""
    unit: str
    value: float
    """The median of the samples."""
    spread: tuple[float, float]
    """Lower and upper quartile."""
    samples: int
    baseline: str = ""
    """What it is compared with; empty when it stands alone."""
    baseline_value: float | None = None
    """The baseline's median, from the same run."""
    ratio: float | None = None
    """value / baseline_value."""
    goal: str = ""
    regime: str = ""
    """"near" or "far": how far apart the two CPUs were (README)."""
    ns_per_frame: float | None = None
    note: str = ""


def row(id: str, unit: str, samples: Sequence[float], **more: object) -> Row:  # noqa: A002 - the field's name
    """Makes a row out of samples; `baseline_samples` among `more` gives baseline value and ratio."""
    values = sorted(samples)
    value = statistics.median(values)
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    others = more.pop("baseline_samples", None)
    if others:
        assert isinstance(others, Sequence)
        more["baseline_value"] = _round(statistics.median(others))
        more["ratio"] = _round(value / statistics.median(others))
    spread = (_round(quartiles[0]), _round(quartiles[2]))
    return Row(id=id, unit=unit, value=_round(value), spread=spread, samples=len(values), **more)  # type: ignore[arg-type]


def _round(number: float) -> float:
    return float(f"{number:.4g}")


def machine() -> dict[str, str]:
    """Says what the numbers were measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": f"{os.cpu_count()} x {cpu}",
        "memory": f"{memory_kib // 1024} MiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Returns the commit that was measured, with a plus when the tree differs from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def save(bench: str, mode: str, rows: Sequence[Row], path: Path = FILE) -> None:
    """Puts one bench's rows into the results file, in place of its earlier ones."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept[bench] = {
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "mode": mode,
        "machine": machine(),
        "rows": [{k: v for k, v in asdict(row).items() if v not in ("", None)} for row in rows],
    }
    path.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Writes rows as lines for the terminal."""
    lines = []
    for r in rows:
        compared = f"  {r.ratio:.2f} x {r.baseline} ({r.baseline_value:g})" if r.ratio is not None else ""
        per_frame = f"  {r.ns_per_frame:g} ns/frame" if r.ns_per_frame else ""
        goal = f"  goal {r.goal}" if r.goal else ""
        spread = f"[{r.spread[0]:g}..{r.spread[1]:g}, n={r.samples}]"
        lines.append(f"{r.id:38s} {r.value:>9g} {r.unit:10s} {spread:28s} {r.regime:4s}{compared}{per_frame}{goal}")
    return "\n".join(lines)
