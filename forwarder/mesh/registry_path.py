"""The path of the registry API: a JSON text beside a Register, with a token for each hop.

It is another one than a connection's: its segments have nothing but tokens.
Source: Network Service Mesh sdk, `pkg/registry/common/grpcmetadata`.
"""

import json
from dataclasses import dataclass

from forwarder.errors import RemoteProtocolError


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryPath:
    """A path as whoever has it sees it."""

    index: int
    """Of its holder's own segment."""
    tokens: tuple[str, ...]


def parse(text: str) -> RegistryPath:
    """Reads `{"Index":0,"PathSegments":[{"token":"..."}]}`; `null` is no segments.

    Raises RemoteProtocolError for anything else; what it says has no token in it.
    """
    try:
        read = json.loads(text)
        index, segments = read.get("Index", 0), read.get("PathSegments") or []
        tokens = tuple(segment.get("token", "") for segment in segments)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise RemoteProtocolError(
            "the registry answered with a path that is none", detail=type(error).__name__
        ) from None
    if type(index) is not int or index < 0 or not all(isinstance(token, str) for token in tokens):
        raise RemoteProtocolError("the registry answered with a path whose index or tokens have a wrong type")
    return RegistryPath(index=index, tokens=tokens)
