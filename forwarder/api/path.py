"""Reading a connection's path: who is before us, who after, who made it.

Advancing the path as a Request travels is not here but in `connection.path`.
"""

from typing import TypeVar

from google.protobuf.message import Message

from forwarder.api.connection_pb2 import Connection, Path, PathSegment

M = TypeVar("M", bound=Message)


def copy(message: M) -> M:
    """Returns a deep copy, unknown fields included."""
    duplicate = type(message)()
    duplicate.CopyFrom(message)
    return duplicate


def segment(path: Path) -> PathSegment | None:
    """Returns the segment of whoever holds the message, None if the index points past the end."""
    return at(path, path.index)


def previous(path: Path) -> PathSegment | None:
    """Returns the caller's segment, None for the originator."""
    return at(path, path.index - 1)


def following(path: Path) -> PathSegment | None:
    """Returns the next hop's segment, None if there is none yet."""
    return at(path, path.index + 1)


def at(path: Path, index: int) -> PathSegment | None:
    """Returns the segment at `index`, counted from 0, or None."""
    if not 0 <= index < len(path.path_segments):
        return None
    return path.path_segments[index]


def ids(path: Path) -> list[str]:
    """Returns the connection's id at each hop."""
    return [each.id for each in path.path_segments]


def names(path: Path) -> list[str]:
    """Returns the name of each hop."""
    return [each.name for each in path.path_segments]


def origin_id(connection: Connection) -> str:
    """Returns the id the originator gave the connection; its own id if it has no path yet."""
    first = at(connection.path, 0)
    return first.id if first is not None else connection.id
