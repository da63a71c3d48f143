"""Reading a path."""

from forwarder.api import path
from forwarder.api.connection_pb2 import Connection, Path, PathSegment


def a_path(index: int, *names: str) -> Path:
    return Path(index=index, path_segments=[PathSegment(name=name, id=f"{name}-id") for name in names])


def test_ids_and_names_are_in_order() -> None:
    assert path.names(a_path(0, "nsc", "fwd", "nse")) == ["nsc", "fwd", "nse"]
    assert path.ids(a_path(0, "nsc", "fwd")) == ["nsc-id", "fwd-id"]


def test_neighbours_of_the_index() -> None:
    middle = a_path(1, "nsc", "fwd", "nse")
    previous, own, following = path.previous(middle), path.segment(middle), path.following(middle)
    assert previous is not None
    assert own is not None
    assert following is not None
    assert (previous.name, own.name, following.name) == ("nsc", "fwd", "nse")


def test_there_is_nobody_beyond_the_ends() -> None:
    assert path.previous(a_path(0, "nsc", "fwd")) is None
    assert path.following(a_path(1, "nsc", "fwd")) is None
    assert path.segment(Path()) is None
    assert path.segment(a_path(7, "nsc")) is None
    assert path.at(a_path(0, "nsc"), -1) is None


def test_segments_are_the_message_s_own() -> None:
    given = a_path(0, "nsc")
    segment = path.segment(given)
    assert segment is not None
    segment.id = "new"
    assert path.ids(given) == ["new"]


def test_the_originator_names_the_connection() -> None:
    assert path.origin_id(Connection(id="x", path=a_path(1, "nsc", "fwd"))) == "nsc-id"
    assert path.origin_id(Connection(id="x")) == "x"


def test_a_copy_is_independent() -> None:
    given = Connection(id="x", path=a_path(1, "nsc", "fwd"))
    made = path.copy(given)
    assert made == given
    made.path.path_segments[0].id = "other"
    assert given.path.path_segments[0].id == "nsc-id"
