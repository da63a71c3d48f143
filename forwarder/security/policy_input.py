"""What a policy looks at, and the JSON form of it that Rego files of users were written for.

Source: Network Service Mesh sdk, `pkg/tools/opa`, and the `authorize` elements that use it.
"""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from forwarder.api.connection_pb2 import Path, PathSegment
from forwarder.api.x509 import Peer


class PolicyInput(Protocol):
    """What every input has."""

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end; None if it showed no certificate."""
        ...

    @property
    def index(self) -> int:
        """The place of our own segment in the path, counted from 0."""
        ...

    @property
    def has_path(self) -> bool:
        """Whether there is a path at all. To NSM's rules a Request's path without segments is none."""
        ...

    @property
    def tokens(self) -> Sequence[str]:
        """The token of each segment."""
        ...

    def json(self) -> dict[str, Any]:
        """Returns what a Rego file gets as `input`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkServiceInput:
    """A Request or Close, or the answer to a Request."""

    segments: tuple[PathSegment, ...]
    index: int
    peer: Peer | None

    @classmethod
    def of_call(cls, path: Path, index: int, caller: Peer | None) -> Self:
        """Makes what a server looks at: its own segment, at `index`, and those to the left of it."""
        return cls(segments=tuple(path.path_segments[: index + 1]), index=index, peer=caller)

    @classmethod
    def of_answer(cls, path: Path, index: int, server: Peer | None) -> Self:
        """Makes what a client looks at: the whole path that came back; its own segment is at `index`."""
        return cls(segments=tuple(path.path_segments), index=index, peer=server)

    @property
    def has_path(self) -> bool:
        """Whether there are segments."""
        return bool(self.segments)

    @property
    def tokens(self) -> Sequence[str]:
        """The token of each segment."""
        return [segment.token for segment in self.segments]

    def json(self) -> dict[str, Any]:
        """Returns what a Rego file gets; as in Go, what is empty is left out."""
        return {
            **({"index": self.index} if self.index else {}),
            **({"path_segments": [_segment(each) for each in self.segments]} if self.segments else {}),
            "auth_info": _auth_info(self.peer),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryInput:
    """A Register or Unregister, or the answer to a Register."""

    name: str
    """Of the network service or endpoint."""
    owner: str
    """SPIFFE ID of whoever asked first: the subject of the first token, or empty."""
    known: Mapping[str, Sequence[str]]
    """By name, the path ids under which it was registered here before."""
    tokens: Sequence[str]
    """Of the path: a server looks at its own and those to the left, a client at all."""
    index: int
    peer: Peer | None
    has_path: bool = True

    def json(self) -> dict[str, Any]:
        """Returns what a Rego file gets."""
        return {
            "resource_id": self.owner,
            "resource_name": self.name,
            "resource_path_ids_map": {name: list(ids) for name, ids in self.known.items()},
            "path_segments": [{"token": token} for token in self.tokens] if self.has_path else None,
            "index": self.index,
            "auth_info": _auth_info(self.peer),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorInput:
    """A MonitorConnections call."""

    connections: Mapping[str, Sequence[str]]
    """By SPIFFE ID of a caller, the ids of the connections it has."""
    selected: Sequence[str]
    """The connection ids that the selector names."""
    caller: str
    """SPIFFE ID, or empty."""
    peer: Peer | None
    index: int = 0
    has_path: bool = False
    tokens: Sequence[str] = ()

    def json(self) -> dict[str, Any]:
        """Returns what a Rego file gets."""
        return {
            "spiffe_id_connection_map": {name: list(ids) for name, ids in self.connections.items()},
            "selector_connection_ids": list(self.selected),
            "service_spiffe_id": self.caller,
            "auth_info": _auth_info(self.peer),
        }


def _auth_info(peer: Peer | None) -> dict[str, str]:
    return {"certificate": "" if peer is None else ssl.DER_cert_to_PEM_cert(peer.certificate)}


def _segment(segment: PathSegment) -> dict[str, Any]:
    expires = {"seconds": segment.expires.seconds, "nanos": segment.expires.nanos}
    fields = {
        "name": segment.name,
        "id": segment.id,
        "token": segment.token,
        "metrics": dict(segment.metrics),
    }
    return {
        **{name: value for name, value in fields.items() if value},
        **(
            {"expires": {name: value for name, value in expires.items() if value}}
            if segment.HasField("expires")
            else {}
        ),
    }
