"""Connections and paths for tests, written short."""

from google.protobuf.timestamp_pb2 import Timestamp

from forwarder.api.connection_pb2 import Connection, Path, PathSegment


def timestamp(at: float) -> Timestamp:
    """Seconds since the epoch as a message."""
    seconds = int(at)
    return Timestamp(seconds=seconds, nanos=round((at - seconds) * 1e9))


def path(*hops: str, index: int = 0, expires: float | None = None) -> Path:
    """`path("nsc:1", "nsmgr:2")`: segments of name and id, all expiring at the same time."""
    segments = []
    for hop in hops:
        name, _, connection_id = hop.partition(":")
        segment = PathSegment(name=name, id=connection_id)
        if expires is not None:
            segment.expires.CopyFrom(timestamp(expires))
        segments.append(segment)
    return Path(index=index, path_segments=segments)


def connection(*hops: str, index: int = 0, expires: float | None = None, **fields: object) -> Connection:
    """A connection in the view of the hop at `index`."""
    made = path(*hops, index=index, expires=expires)
    own = made.path_segments[index].id if made.path_segments else ""
    return Connection(path=made, **{"id": own, **fields})  # type: ignore[arg-type]


def hops(given: Connection) -> list[str]:
    """The path as `connection` takes it."""
    return [f"{segment.name}:{segment.id}" for segment in given.path.path_segments]
