"""Renews what README.md takes from elsewhere: the settings from config.py, the numbers from bench/results.json.

`python -m tests.support.readme --write` writes it; without the flag it says whether README.md is as it should be.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forwarder import config

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results.json"
NOT_MEASURED = "Not measured yet: `make bench`.\n"

Row = dict[str, Any]
"""One object of bench/results.json."""


def render(document: str, results: Sequence[Row]) -> str:
    """Returns the document with every marked part as it should be."""
    document = config.write_tables(document)
    document = _between(document, "headline", headline(results))
    return _between(document, "numbers", numbers(results))


def _between(document: str, name: str, text: str) -> str:
    return re.sub(
        rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda match: match[1] + text + match[2],
        document,
        flags=re.DOTALL,
    )


def headline(results: Sequence[Row]) -> str:
    """The first number of the README: small frames from memif to memif beside testpmd."""
    rows = [row for row in results if row["id"] == "memif-memif-64" and row.get("direction") == "one way"]
    for row in sorted(rows, key=lambda row: row["regime"] != "near"):
        return (
            f"**{row['ours']:.3g} million frames of 64 bytes a second** from memif to memif on one core, "
            f"{row['ratio']:.2f} times {row['baseline_name']} in the same place ({row['baseline']:.3g}); "
            f"[how this was measured](bench/README.md).\n"
        )
    return NOT_MEASURED


def numbers(results: Sequence[Row]) -> str:
    """All numbers as a table, and below it the machines and commits they come from."""
    if not results:
        return NOT_MEASURED
    lines = [
        "| what | median | quartiles | compared with | ratio | at least | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    sources: dict[str, list[str]] = {}
    for row in results:
        which = ", ".join(row[name] for name in ("direction", "regime") if row.get(name))
        what = f"`{row['id']}`" + (f" ({which})" if which else "")
        baseline = f"{row['baseline_name']}: {row['baseline']:g}" if row["baseline"] is not None else ""
        ratio = f"{row['ratio']:g}" if row["ratio"] is not None else ""
        lines.append(
            f"| {what} | {row['ours']:g} {row['unit']} | {row['spread'][0]:g} to {row['spread'][1]:g} "
            f"| {baseline} | {ratio} | {_limit(row)} | {'yes' if row['holds'] else 'no'} |"
        )
        source = f"{row['measured'][:10]}, commit {row['commit']}, {row['mode']} run, {row['machine']}"
        ids = sources.setdefault(source, [])
        if row["id"] not in ids:
            ids.append(row["id"])
    told = [f"- {source}: {', '.join(ids)}." for source, ids in sources.items()]
    return "\n".join([*lines, "", *told]) + "\n"


def _limit(row: Row) -> str:
    """Says the limit, with what was reached beside every further field that it names."""
    parts = [
        part if (name := part.split()[0]) in ("ours", "ratio") else f"{part} ({row[name]:g})"
        for part in row["at_least"].split(", ")
    ]
    return ", ".join(parts)


def main() -> int:
    """Writes or compares."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    text = README.read_text()
    wanted = render(text, results)
    if "--write" in sys.argv[1:]:
        README.write_text(wanted)
    elif wanted != text:
        print("README.md is not as config.py and bench/results.json say; run: make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
