"""All rows in one picture: how far each is above or below what it has to reach."""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.goals import GOALS, parts
from bench.report import variant
from bench.results import ROOT, Row

FILE = ROOT / "bench" / "results.png"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"  # Okabe and Ito: told apart by everybody


def reach(value: float, comparison: str, limit: float) -> float:
    """Returns how many times better than a limit a value is; below 1 is worse, also where less is better."""
    tiny = 1e-3
    value, limit = max(value, tiny), max(limit, tiny)
    return value / limit if comparison.startswith(">") else limit / value


def margin(row: Row, limit: str) -> tuple[float, float, float] | None:
    """Returns the worst margin of all parts of a limit with its quartiles; None without a measured field."""
    worst: tuple[float, float, float] | None = None
    for name, comparison, number in parts(limit):
        if not isinstance(value := row.get(name), int | float):
            return None
        centre = reach(value, comparison, number)
        stretch = [each / row["ours"] if row["ours"] else 1.0 for each in row["spread"]]
        if name.startswith("lost") or "p99" in name:
            stretch = [1.0, 1.0]
        ends = sorted(reach(value * each, comparison, number) for each in stretch)
        if worst is None or centre < worst[0]:
            worst = (centre, ends[0], ends[1])
    return worst


def draw(rows: Sequence[Row], path: Path = FILE) -> None:
    """Draws the rows, the first on top; replaces the file."""
    os.environ.setdefault("MPLCONFIGDIR", str(ROOT / "build" / "matplotlib"))
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and only here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.lines import Line2D  # noqa: PLC0415

    shown = [(row, found) for row in rows if row["id"] in GOALS and (found := margin(row, row["at_least"]))]
    if not shown:
        return
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.34 * len(shown)), layout="constrained")
    for place, (row, (centre, low, high)) in enumerate(shown):
        colour, mark = (BLUE, "o") if row["holds"] else (ORANGE, "X")
        axes.plot([low, high], [place, place], color=colour, linewidth=2.5, alpha=0.5, solid_capstyle="butt")
        axes.plot([centre], [place], mark, color=colour, markersize=8)
        if row["aim"] and (aimed := margin(row, row["aim"])):
            axes.plot([centre / aimed[0]], [place], "|", color=GREY, markersize=13, markeredgewidth=2)
        compared = "" if row["ratio"] is None else f", {row['ratio']:g} × {row['baseline_name']}"
        axes.annotate(
            f"{row['ours']:g} {row['unit']}{compared}",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(
        range(len(shown)), [", ".join(filter(None, (row["id"], variant(row)))) for row, _ in shown], fontsize=9
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1.2)
    axes.grid(axis="x", which="both", linewidth=0.4, alpha=0.5)
    axes.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_xlabel("how many times better than the limit that has to be reached (1×); the part of it that is nearest")
    axes.set_title(f"vwire, commit {shown[0][0]['commit']}: {shown[0][0]['machine']}", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(
        handles=[
            Line2D([], [], color=BLUE, marker="o", linestyle="", markersize=8, label="holds"),
            Line2D([], [], color=ORANGE, marker="X", linestyle="", markersize=8, label="does not hold"),
            Line2D([], [], color=GREY, linewidth=2.5, alpha=0.5, label="quartiles"),
            Line2D([], [], color=GREY, marker="|", linestyle="", markersize=12, markeredgewidth=2, label="the aim"),
        ],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06 - 1.2 / (1.6 + 0.34 * len(shown)) * 0.25),
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
