"""The rules that Network Service Mesh programs check by default, as functions.

A rule returns why it denies, or None if it allows. It raises PolicyError where the rule of NSM
could not be evaluated either. Nothing that it says has a token in it.

Source: what the Rego files of Network Service Mesh's sdk say, `pkg/tools/opa/policies`.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NoReturn

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from forwarder.api.x509 import load
from forwarder.errors import InvalidRequest, PolicyError
from forwarder.security import certificates
from forwarder.security.policy_input import MonitorInput, PolicyInput, RegistryInput

Rule = Callable[[PolicyInput, float], str | None]
"""Takes what to look at and the time, in seconds since the epoch."""

NO_PATH: Final = "there is no path"
LONGEST_REMEMBERED: Final = 8192
"""Characters. A token names two SPIFFE IDs, of 2048 bytes at the most."""

_jws: Final = jwt.PyJWS(algorithms=["ES256"])


def tokens_valid(subject: PolicyInput, _now: float) -> str | None:
    """Every token is a JWT, whoever signed it."""
    if not subject.has_path:
        return NO_PATH
    for number, token in enumerate(subject.tokens):
        if _claims(token) is None:
            return f"the token of segment {number} is {'no JWT' if token else 'missing'}"
    return None


def tokens_expired(subject: PolicyInput, now: float) -> str | None:
    """Every token says when it ends, and none has ended."""
    if not subject.has_path:
        return NO_PATH
    for number, token in enumerate(subject.tokens):
        exp = (_claims(token) or {}).get("exp")
        if not isinstance(exp, int | float) or isinstance(exp, bool):
            return f"the token of segment {number} does not say when it expires"
        if exp <= now:
            return f"the token of segment {number} expired {now - max(exp, 0):.1f} s ago"
    return None


def tokens_chained(subject: PolicyInput, _now: float) -> str | None:
    """Every token was made for whoever made the next one.

    Raises PolicyError if a token is for several, of whom some made the next one and some did not.
    """
    if not subject.has_path:
        return NO_PATH
    # All of them: one that cannot be judged goes before one that is denied.
    broken = [_broken_link(number, *pair) for number, pair in enumerate(pairwise(subject.tokens))]
    return next((reason for reason in broken if reason is not None), None)


def _broken_link(number: int, token: str, following: str) -> str | None:
    """Returns why the token of segment `number` was not made for the maker of the one after it."""
    audience, maker = (_claims(token) or {}).get("aud"), (_claims(following) or {}).get("sub")
    if not isinstance(maker, str):
        return f"the token of segment {number + 1} does not say who made it"
    if not isinstance(audience, list):
        return f"the token of segment {number} does not say for whom it is"
    matches = {each == maker for each in audience}
    if len(matches) > 1:
        raise PolicyError(
            f"the token of segment {number} is for {len(audience)} audiences, only some of which are {maker}"
        )
    if matches != {True}:
        others = ", ".join(map(str, audience)) or "nobody"
        return f"the token of segment {number} is for {others}, and that of segment {number + 1} by {maker}"
    return None


def prev_token_signed(subject: PolicyInput, _now: float) -> str | None:
    """The caller's token was signed with the key of the certificate that the caller shows."""
    if subject.index < 1:
        return "the caller has no segment in the path"
    return _signed_by_peer(subject, subject.index - 1)


def next_token_signed(subject: PolicyInput, _now: float) -> str | None:
    """The next hop's token was signed with the key of the certificate that the next hop shows."""
    return _signed_by_peer(subject, subject.index + 1)


def client_allowed(subject: PolicyInput, _now: float) -> str | None:
    """The name is new here, or its owner is whoever registered it first."""
    assert isinstance(subject, RegistryInput)
    if subject.name not in subject.known:
        return None
    ids = subject.known[subject.name]
    if ids and ids[0] == subject.owner:
        return None
    return f"{subject.name!r} belongs to {ids[0] if ids else 'nobody'}, not to {subject.owner or 'an unknown caller'}"


def service_connection(subject: PolicyInput, _now: float) -> str | None:
    """The selector names a connection that the caller has."""
    assert isinstance(subject, MonitorInput)
    if not subject.selected:
        return "the selector names no connection"
    if not set(subject.selected) & set(subject.connections.get(subject.caller, ())):
        return f"{subject.caller or 'the caller'} has none of the connections that the selector names"
    return None


RULES: Final[Mapping[str, tuple[Rule, type[PolicyInput]]]] = {
    "client/next_token_signed": (next_token_signed, PolicyInput),
    "common/tokens_chained": (tokens_chained, PolicyInput),
    "common/tokens_expired": (tokens_expired, PolicyInput),
    "common/tokens_valid": (tokens_valid, PolicyInput),
    "monitor/service_connection": (service_connection, MonitorInput),
    "registry/client_allowed": (client_allowed, RegistryInput),
    "server/prev_token_signed": (prev_token_signed, PolicyInput),
}
"""By the names of NSM's files: each rule, and what it can look at."""


def owner_of(token: str) -> str:
    """Returns who made a token, as it says itself; empty if it does not.

    With the token of a path's first segment this is the owner of a registration.
    """
    subject = (_claims(token) or {}).get("sub")
    return subject if isinstance(subject, str) else ""


def _claims(token: str) -> Mapping[str, Any] | None:
    """Returns what is in a token, unverified, or None if it is no JWT.

    Remembered, since several rules ask, and a segment's token stays for as long as a connection is refreshed;
    but not what is longer than any that is meant: a peer may send some of megabytes.
    """
    return _remembered(token) if len(token) <= LONGEST_REMEMBERED else _read(token)


def _read(token: str) -> Mapping[str, Any] | None:
    try:
        payload = _jws.decode_complete(token, options={"verify_signature": False})["payload"]
        claims = json.loads(payload, parse_constant=_no_number)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


_remembered: Final = lru_cache(maxsize=256)(_read)


def _no_number(constant: str) -> NoReturn:
    """Refuses NaN and Infinity, which JSON has not: nothing would ever be later."""
    raise ValueError(f"{constant} is no JSON")


def _signed_by_peer(subject: PolicyInput, number: int) -> str | None:
    if number >= len(subject.tokens):
        return f"the path has no segment {number}"
    if subject.peer is None:
        return "the peer shows no certificate"
    try:
        key = load(subject.peer.certificate).public_key()
    except (InvalidRequest, UnsupportedAlgorithm, ValueError) as error:
        return f"the certificate of {subject.peer.identity} has no usable key: {error}"
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != certificates.CURVE:
        return f"the certificate of {subject.peer.identity} has no key of P-256, which ES256 needs"
    try:
        _jws.decode(subject.tokens[number], key, algorithms=["ES256"])
    except (jwt.PyJWTError, ValueError, RecursionError):
        return f"the token of segment {number} was not signed by the certificate of {subject.peer.identity}"
    return None
