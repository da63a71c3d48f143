"""Fixtures of the data plane's tests."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def pytester_run(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Runs the text of a test file under this suite's own fixtures and returns what pytest printed."""

    def run(text: str) -> str:
        path = Path(__file__).parent / "_inner.py"
        path.write_text(textwrap.dedent(text))
        try:
            return subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(path)],
                cwd=request.config.rootpath,
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        finally:
            path.unlink()

    return run
