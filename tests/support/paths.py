"""Paths with tokens as the programs of a mesh make them, and as they should not."""

import base64
import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from forwarder.api.connection_pb2 import PathSegment
from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.x509 import Peer, Svid
from forwarder.security import Authority, SvidTokens
from tests.support.certificates import Fixed

AUTHORITY = Authority("example.org")
NOW = AUTHORITY.clock.now()


@cache
def svid(name: str) -> Svid:
    """The SVID of `spiffe://example.org/NAME`."""
    return AUTHORITY.issue(SpiffeId.parse(f"spiffe://example.org/{name}"))


def peer(name: str) -> Peer:
    """That workload, seen from the other end of a connection."""
    return Peer(identity=svid(name).identity, certificate=svid(name).certificates[0])


@cache
def token(maker: str, audience: str | None, lifetime_s: float = 600) -> str:
    """A token as `maker` makes it for `audience`."""
    source = SvidTokens(Fixed(svid(maker), AUTHORITY), lifetime_s=lifetime_s, now=lambda: NOW)
    return source.token(None if audience is None else peer(audience)).text


def part(value: object) -> str:
    """One part of a JWT."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(header: object = None, **claims: object) -> str:
    """A JWT that says anything, with a signature that fits nothing."""
    return f"{part(header or {'alg': 'ES256', 'typ': 'JWT'})}.{part(claims)}.{'A' * 86}"


def chain(*names: str) -> list[str]:
    """The tokens of a good path: each made for the next, the last for the one before it."""
    tokens = [token(maker, audience) for maker, audience in pairwise(names)]
    return [*tokens, token(names[-1], names[-2] if len(names) > 1 else None)]


def segments(tokens: Sequence[str], **fields: Any) -> tuple[PathSegment, ...]:
    """Path segments with these tokens."""
    return tuple(PathSegment(token=each, **fields) for each in tokens)
