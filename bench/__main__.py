"""Runs the measurements of the table and keeps their numbers: python -m bench [--quick] [--only ID,ID]."""

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Sequence

from bench import compare, plot
from bench.goals import GOALS, chosen
from bench.programs import first_in_line
from bench.report import told
from bench.results import FILE, Measured, commit, load, machine, ordered, row, save, this_run
from bench.run import Run
from bench.trees import THIS, Tree, commits


def scripts(ids: Sequence[str]) -> dict[str, list[str]]:
    """Returns which script measures which of the ids, in the table's order."""
    by: dict[str, list[str]] = {}
    for name in ids:
        by.setdefault(GOALS[name].script, []).append(name)
    return by


def measure(ids: Sequence[str], trees: Sequence[Tree], *, quick: bool) -> tuple[list[Measured], list[str]]:
    """Runs the scripts of `ids`; a failing one does not keep the others from running.

    Returns what was measured and the ids of what was not.
    """
    measured: list[Measured] = []
    failed: list[str] = []
    for script, of_it in scripts(ids).items():
        print(f"\n{script}: {', '.join(of_it)}", flush=True)
        began = time.monotonic()
        try:
            with first_in_line():
                run = importlib.import_module(f"bench.{script}").run
                measured += run(Run(ids=set(of_it), quick=quick, trees=trees))
        except Exception as error:
            print(f"{script}: failed: {error!r}", file=sys.stderr)
            failed += of_it
        print(f"{script}: {time.monotonic() - began:.0f} s", flush=True)
    return measured, failed


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: all in less than six minutes")
    parser.add_argument("--only", default="", metavar="ID,ID", help="; ".join(GOALS))
    parser.add_argument("--compare", default="", metavar="COMMIT,COMMIT", help="measure two commits against each other")
    parser.add_argument("--list", action="store_true", help="list what there is to measure")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:22s} {goal.what}; at least {goal.at_least}" for name, goal in GOALS.items()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        ids = chosen(arguments.only)
        names = [name for name in arguments.compare.split(",") if name]
        if names and len(names) != 2:
            raise ValueError(f"{arguments.compare!r} is not COMMIT,COMMIT")
        print(f"commit {commit()}; {machine()}")
        if not names:
            return run_table(ids, quick=arguments.quick)
        with commits(names) as trees:
            return run_comparison(ids, trees, quick=arguments.quick)
    except ValueError as error:
        parser.error(str(error))


def run_table(ids: Sequence[str], *, quick: bool) -> int:
    """Measures this tree, and keeps the numbers."""
    of_all = this_run(quick=quick)
    measured, failed = measure(ids, [THIS], quick=quick)
    rows = ordered([row(each, THIS.name, of_all) for each in measured])
    missing = [name for name in ids if name not in {each["id"] for each in rows}]
    if rows:
        save(rows)
        plot.draw(load())
    print(f"\n{told(rows)}\n\nresults in {FILE}, picture in {plot.FILE}")
    if missing:
        print(f"not measured: {', '.join(missing)}", file=sys.stderr)
    return 1 if failed or missing else 0


def run_comparison(ids: Sequence[str], trees: Sequence[Tree], *, quick: bool) -> int:
    """Measures two commits beside each other, and keeps nothing."""
    measured, failed = measure(ids, trees, quick=quick)
    print(f"\n{compare.told(measured, *(tree.name for tree in trees))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
