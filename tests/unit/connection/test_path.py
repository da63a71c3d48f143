"""The table of path arithmetic: every place a hop can stand, and what must not be accepted."""

import uuid

import pytest

from forwarder.api.connection_pb2 import Connection, Path, PathSegment
from forwarder.connection.path import Position, advance, to_caller, to_own, trim
from forwarder.errors import InvalidRequest, RemoteProtocolError
from tests.support.connections import connection, hops

NEW = "new"

CASES = {
    "no path and no id": (
        Connection(), "nsc", ["nsc:new"], 0, "new", (0, "new"),
    ),
    "no path keeps the given id": (
        Connection(id="mine"), "nsc", ["nsc:mine"], 0, "mine", (0, "mine"),
    ),
    "own segment is current": (
        connection("nsc:1", "fwd:2", index=1), "fwd", ["nsc:1", "fwd:2"], 1, "2", (1, "2"),
    ),
    "own segment is current and gives the id": (
        connection("nsc:1", "fwd:2", index=1, id="other"), "fwd", ["nsc:1", "fwd:2"], 1, "2", (1, "2"),
    ),
    "first Request appends": (
        connection("nsc:1", "mgr:2", index=1), "fwd", ["nsc:1", "mgr:2", "fwd:new"], 2, "new", (1, "2"),
    ),
    "refresh finds its segment": (
        connection("nsc:1", "mgr:2", "fwd:3", "nse:4", index=1), "fwd",
        ["nsc:1", "mgr:2", "fwd:3", "nse:4"], 2, "3", (1, "2"),
    ),
    "another hop stood here: its segment becomes ours, later ones stay": (
        connection("nsc:1", "mgr:2", "old:3", "nse:4", index=1), "fwd",
        ["nsc:1", "mgr:2", "fwd:new", "nse:4"], 2, "new", (1, "2"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "name", "segments", "index", "own_id", "caller"), CASES.values(), ids=CASES)
def test_advance_and_back(
    given: Connection, name: str, segments: list[str], index: int, own_id: str, caller: tuple[int, str]
) -> None:
    moved = Connection()
    moved.CopyFrom(given)
    position = advance(moved, name, lambda _caller: NEW)
    assert hops(moved) == segments
    assert (moved.path.index, moved.id) == (index, own_id)
    assert position == Position(own_index=index, own_id=own_id, caller_index=caller[0], caller_id=caller[1])
    to_own(moved, position)
    assert (moved.path.index, moved.id) == (index, own_id)
    to_caller(moved, position)
    assert (moved.path.index, moved.id) == caller
    assert hops(moved) == segments, "every segment right of the caller stays"


def test_new_ids_are_uuids() -> None:
    for given in (Connection(), connection("nsc:1")):
        advance(given, "fwd")
        assert uuid.UUID(given.id).version == 4


def test_the_maker_of_ids_learns_who_calls() -> None:
    asked: list[str] = []
    advance(connection("nsc:1"), "fwd", lambda caller: asked.append(caller) or NEW)  # type: ignore[func-returns-value]
    assert asked == ["1"]


REFUSED = {
    "index at the end": (connection("nsc:1", index=0), 1, None, "path index 1 is outside a path of 1 segments"),
    "index far outside": (connection("nsc:1", index=0), 4_000_000_000, None, "outside a path"),
    "the current segment has another id": (
        connection("nsc:1", "mgr:2"),
        0,
        "x",
        "has the id '1', the connection has 'x'",
    ),
    "own current segment without id": (connection("fwd:"), 0, "", "has no id"),
    "own next segment without id": (connection("nsc:1", "fwd:"), 0, "1", "has no id"),
}


@pytest.mark.parametrize(("given", "index", "id_", "says"), REFUSED.values(), ids=REFUSED)
def test_a_path_that_does_not_fit_is_refused(given: Connection, index: int, id_: str | None, says: str) -> None:
    given.path.index = index
    if id_ is not None:
        given.id = id_
    with pytest.raises(InvalidRequest) as caught:
        advance(given, "fwd")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [Connection(), connection("nsc:1"), connection("nsc:1", "fwd:other", "nse:3", index=1)],
    ids=["no path", "cut before us", "our id changed"],
)
def test_an_answer_without_our_segment_is_the_next_hops_fault(answer: Connection) -> None:
    position = Position(own_index=1, own_id="2", caller_index=0, caller_id="1")
    with pytest.raises(RemoteProtocolError):
        to_own(answer, position)


def test_trim_leaves_the_current_segment_last() -> None:
    given = connection("nsc:1", "nse:2", "stale:3", index=1)
    trim(given)
    assert hops(given) == ["nsc:1", "nse:2"]


def test_unknown_fields_of_the_path_survive() -> None:
    unknown = b"\xfa\x07\x03abc"
    given = Connection.FromString(connection("nsc:1").SerializeToString() + unknown)
    segment = PathSegment.FromString(given.path.path_segments[0].SerializeToString() + unknown)
    given.path.CopyFrom(Path(path_segments=[segment]))
    position = advance(given, "fwd", lambda _caller: NEW)
    to_caller(given, position)
    assert given.SerializeToString().count(unknown) == 2
