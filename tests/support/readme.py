"""Renews what README.md takes from elsewhere: the settings from config.py, the numbers from bench/results.json.

`python -m tests.support.readme --write` writes it; without the flag it says whether README.md is as it should be.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from forwarder import config

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results.json"


def render(document: str, results: dict[str, Any]) -> str:
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


def headline(results: dict[str, Any]) -> str:
    """The first number of the README: small frames from memif to memif beside testpmd."""
    for regime in ("near", "far"):
        for row in results.get("memif", {}).get("rows", ()):
            if row["id"] == "memif-memif-64B-vs-testpmd" and row.get("regime") == regime:
                return (
                    f"**{row['value']:.3g} million frames of 64 bytes a second** from memif to memif on one core, "
                    f"{row['ratio']:.2f} times dpdk-testpmd `io` in the same place ({row['baseline_value']:.3g}); "
                    f"[how this was measured](bench/README.md).\n"
                )
    return "Not measured yet: `make bench`.\n"


def numbers(results: dict[str, Any]) -> str:
    """All numbers as a table, and below it the machines and commits they come from."""
    if not results:
        return "Not measured yet: `make bench`.\n"
    lines = ["| what | median | quartiles | compared with | ratio | goal |", "| --- | --- | --- | --- | --- | --- |"]
    sources = []
    for name, bench in results.items():
        for row in bench["rows"]:
            what = row["id"] + (f" ({row['regime']})" if row.get("regime") else "")
            baseline = f"{row['baseline']}: {row['baseline_value']:g}" if "baseline_value" in row else ""
            lines.append(
                f"| {what} | {row['value']:g} {row['unit']} | {row['spread'][0]:g} to {row['spread'][1]:g} "
                f"| {baseline} | {row.get('ratio', '')} | {row.get('goal', '')} |"
            )
        machine = bench["machine"]
        sources.append(
            f"{name}: {bench['measured'][:10]}, commit {bench['commit']}, {bench['mode']}, {machine['cpu']}, "
            f"Linux {machine['kernel']}, Python {machine['python']}."
        )
    return "\n".join([*lines, "", *(f"- {source}" for source in sources)]) + "\n"


def main() -> int:
    """Writes or compares."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
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
