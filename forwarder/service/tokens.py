"""Tokens on the path: the caller's, as it came with the call, and our own, made for the caller.

Source: sdk's updatetoken server. A missing token of the caller is for the expiry to refuse: it
needs the caller's segment to say when it ends.
"""

from collections.abc import Iterable

from forwarder.api.connection_pb2 import Connection, PathSegment
from forwarder.api.x509 import Peer
from forwarder.security import Token, TokenSource, received


def put(
    connection: Connection, own_index: int, metadata: Iterable[tuple[str, str]], source: TokenSource,
    caller: Peer | None,
) -> None:  # fmt: skip
    """Writes the caller's token into the segment before ours, and a new token of ours into our own.

    Without exactly one token in `metadata` the caller's segment stays as it came.
    """
    segments = connection.path.path_segments
    if own_index > 0:
        theirs = received(metadata)
        if theirs is not None:
            _write(segments[own_index - 1], theirs)
    _write(segments[own_index], source.token(caller))


def _write(segment: PathSegment, token: Token) -> None:
    segment.token = token.text
    segment.expires.FromNanoseconds(token.expires)
