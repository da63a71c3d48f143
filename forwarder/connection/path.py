"""Path arithmetic: which segment of a Connection's path is ours, and which the caller's.

Pure functions over the message. `advance` goes in with the Request, `to_own` puts the next
hop's answer back on our own segment, `to_caller` prepares our own answer.
Source: NSM connection.proto `Path`, `PathSegment`; sdk's path updating server and client.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

from forwarder.api.connection_pb2 import Connection
from forwarder.errors import InvalidRequest, RemoteProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a hop stands on the path, as `advance` found it."""

    own_index: int
    own_id: str
    caller_index: int
    """Equal to `own_index` when the hop was the current segment already."""
    caller_id: str


def new_id() -> str:
    """Returns a random connection id."""
    return str(uuid.uuid4())


def advance(connection: Connection, name: str, make_id: Callable[[str], str] | None = None) -> Position:
    """Makes the segment of the hop called `name` the current one, and `connection.id` its id.

    Changes `connection`. `make_id` gives the id of a segment that has to be made, from the
    caller's id ("" if there is no caller); by default a random one.
    Raises InvalidRequest when the path's index or ids do not fit together.
    """
    make_id = make_id or (lambda _caller_id: new_id())
    path = connection.path
    segments = path.path_segments
    if not segments:
        path.index = 0
        connection.id = connection.id or make_id("")
        segments.add(name=name, id=connection.id)
        return Position(own_index=0, own_id=connection.id, caller_index=0, caller_id=connection.id)
    if path.index >= len(segments):
        raise InvalidRequest(f"path index {path.index} is outside a path of {len(segments)} segments")
    current = segments[path.index]
    if current.name == name:
        if not current.id:
            raise InvalidRequest(f"path segment {path.index} ({name}) has no id")
        connection.id = current.id
        return Position(own_index=path.index, own_id=current.id, caller_index=path.index, caller_id=current.id)
    if current.id != connection.id:
        raise InvalidRequest(
            f"path segment {path.index} ({current.name}) has the id {current.id!r},"
            f" the connection has {connection.id!r}"
        )
    caller_index, caller_id = path.index, current.id
    own_index = caller_index + 1
    if own_index == len(segments):
        segments.add(name=name, id=make_id(caller_id))
    elif segments[own_index].name != name:
        segments[own_index].name = name
        segments[own_index].id = make_id(caller_id)
    own = segments[own_index]
    if not own.id:
        raise InvalidRequest(f"path segment {own_index} ({name}) has no id")
    path.index = own_index
    connection.id = own.id
    return Position(own_index=own_index, own_id=own.id, caller_index=caller_index, caller_id=caller_id)


def to_own(connection: Connection, position: Position) -> None:
    """Makes our own segment the current one of the next hop's answer.

    Raises RemoteProtocolError when the answer no longer has our segment.
    """
    segments = connection.path.path_segments
    if len(segments) <= position.own_index or segments[position.own_index].id != position.own_id:
        raise RemoteProtocolError(
            f"the next hop answered with a path of {len(segments)} segments"
            f" that lacks ours, number {position.own_index} with the id {position.own_id!r}"
        )
    connection.path.index = position.own_index
    connection.id = position.own_id


def to_caller(connection: Connection, position: Position) -> None:
    """Makes the caller's segment the current one; every segment right of it stays."""
    connection.path.index = position.caller_index
    connection.id = position.caller_id


def trim(connection: Connection) -> None:
    """Cuts the path behind the current segment: what a hop does that calls nobody."""
    del connection.path.path_segments[connection.path.index + 1 :]
