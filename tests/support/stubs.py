"""Compares each compiled module with its stub: `python -m tests.support.stubs`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What Cython adds to every module and class.
ALLOWED = r"""
.*\.__test__
.*\.__pyx_capi__
.*\.__pyx_vtable__
.*\.__reduce_cython__
.*\.__setstate_cython__
"""


def compiled_modules() -> list[str]:
    """Returns the dotted names of the modules built from src_ext."""
    sources = ROOT / "src_ext"
    return [".".join(path.relative_to(sources).with_suffix("").parts) for path in sorted(sources.rglob("*.pyx"))]


def main() -> int:
    """Runs stubtest over all of them and returns its exit code."""
    allowlist = ROOT / "build" / "stubtest.allow"
    allowlist.parent.mkdir(exist_ok=True)
    allowlist.write_text(ALLOWED)
    command = [sys.executable, "-m", "mypy.stubtest", "--ignore-unused-allowlist", "--allowlist", str(allowlist)]
    return subprocess.run([*command, *compiled_modules()], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
