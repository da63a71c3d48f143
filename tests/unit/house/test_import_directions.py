"""Inside src_ext a module cimports only from modules below it."""

import re
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "src_ext" / "forwarder" / "dataplane"

# Top to bottom. Port kinds share a level: none knows another. `port_io` drives a port from Python
# and stands beside the worker.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("worker", "port_io"),
    ("vwire",),
    ("af_packet", "memif"),
    ("port", "offload", "coalesce", "packet_ring", "memif_abi"),
    ("counters", "ring", "frame", "checksum", "headers", "vlan", "allocation", "event", "measure"),
    ("atomics", "linux"),
)
KINDS = LEVELS[2]

CIMPORT = re.compile(
    r"^\s*(?:from\s+forwarder\.dataplane(?:\.(\w+))?\s+cimport\s+(\w+)|cimport\s+forwarder\.dataplane\.(\w+))",
    re.MULTILINE,
)


def level(name: str) -> int:
    """Returns how far down a module stands."""
    for number, names in enumerate(LEVELS):
        if name in names:
            return number
    raise AssertionError(f"{name}: give it a place in LEVELS")


def cimports(path: Path) -> set[str]:
    """Returns the modules of ours that a source file cimports."""
    found = {module or name or whole for module, name, whole in CIMPORT.findall(path.read_text())}
    return found - {path.stem}


FILES = sorted(path for path in SOURCES.iterdir() if path.suffix in {".pyx", ".pxd"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_compiled_module_cimports_only_from_below(path: Path) -> None:
    allowed = {name for names in LEVELS[level(path.stem) + 1 :] for name in names}
    # Neighbours below the port kinds are small headers that may build on each other.
    if level(path.stem) > LEVELS.index(KINDS):
        allowed |= set(LEVELS[level(path.stem)])
    assert cimports(path) <= allowed


def test_worker_and_vwire_know_no_port_kind() -> None:
    for path in FILES:
        if path.stem in {"worker", "vwire"}:
            assert not cimports(path) & set(KINDS), path.name
