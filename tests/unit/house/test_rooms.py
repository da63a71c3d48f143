"""Every room is described, and every thing that a user may meet has its words."""

import inspect
from pathlib import Path

import pytest

from forwarder import errors
from forwarder.dataplane import DROP_SENTENCES
from forwarder.rpc import status

ROOT = Path(__file__).parents[3]
ROOMS = sorted(
    {path.parent for path in (ROOT / "forwarder").rglob("*.py") if path.parent != ROOT / "forwarder"}
    | {ROOT / "src_ext", ROOT / "bench"}
)
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
EXCEPTIONS = [kind for kind in CLASSES if issubclass(kind, errors.ForwarderError) and kind.__name__[0] != "_"]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_a_room_has_a_readme_of_about_a_page(room: Path) -> None:
    readme = room / "README.md"
    assert readme.is_file()
    words = len(readme.read_text().split())
    assert 60 <= words <= 1500


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_an_exception_has_a_grpc_status(kind: type[errors.ForwarderError]) -> None:
    assert kind in status.CODES


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_an_exception_is_drawn_in_the_tree_and_has_a_sentence(kind: type[errors.ForwarderError]) -> None:
    assert (kind.__doc__ or "").strip().endswith(".")
    assert kind.__name__ in (errors.__doc__ or "")


def test_every_drop_reason_has_a_name_and_a_sentence() -> None:
    enum = (ROOT / "src_ext/forwarder/dataplane/counters.pxd").read_text().split("cdef enum drop_reason_t:")[1]
    names = [line.split()[0] for line in enum.split("\n\n")[0].splitlines() if line.strip().startswith("DROP_")]
    names.remove("DROP_REASONS")
    assert [f"DROP_{name.upper()}" for name in DROP_SENTENCES] == names
    for name, sentence in DROP_SENTENCES.items():
        assert len(sentence.split()) >= 4, name
