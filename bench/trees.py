"""The code that is measured: this tree, or two commits of it beside each other."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.results import ROOT

CHECKOUTS = ROOT / "build" / "compare"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A built tree, and the name its numbers go by."""

    name: str
    root: Path

    def python(self, *arguments: str) -> list[str]:
        """Returns the command line of Python; with `environment`, its `forwarder` is this tree's."""
        return [sys.executable, "-P", *arguments]

    def ours(self, program: str, *arguments: str) -> list[str]:
        """Returns the command line of a program of bench/ours, always this bench's own."""
        return self.python(str(ROOT / "bench" / "ours" / f"{program}.py"), *arguments)

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        """Returns the environment of a program: ours without vwire's settings, and `settings`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NSM_")}
        return {**kept, "PYTHONPATH": str(self.root), **(settings or {})}


THIS = Tree(name="vwire", root=ROOT)


@contextmanager
def commits(names: list[str]) -> Iterator[list[Tree]]:
    """Checks commits out and builds them, beside this tree; takes them away again.

    Raises ValueError for a name that git does not know.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_checkout(name)) for name in names]


@contextmanager
def _checkout(name: str) -> Iterator[Tree]:
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--short", f"{name}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise ValueError(f"no such commit: {name} ({found.stderr.strip()})")
    short = found.stdout.strip()
    root = CHECKOUTS / f"{short}-{os.getpid()}"
    CHECKOUTS.mkdir(parents=True, exist_ok=True)
    _git("worktree", "add", "--force", "--detach", str(root), short)
    try:
        print(f"building {name} ({short})", flush=True)
        subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=root, check=True)
        yield Tree(name=short if name.startswith(short) else f"{name} ({short})", root=root)
    finally:
        _git("worktree", "remove", "--force", str(root))


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
