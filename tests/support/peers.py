"""Other people's programs: there, or a skip that says what is missing."""

import os
import shutil

import pytest

REQUIRED = os.environ.get("VWIRE_REQUIRE_PEERS") == "1"


def missing(what: str) -> None:
    """Skips the test for want of `what`; fails it where peers are required (VWIRE_REQUIRE_PEERS=1)."""
    if REQUIRED:
        pytest.fail(f"missing: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


def require_program(name: str, *, package: str) -> str:
    """Returns the path of a program that `package` brings."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} (Debian package {package})")
    assert path is not None
    return path
