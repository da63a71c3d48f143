"""Tokens: what one hop gives the next to say who it is."""

import calendar
import json
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from forwarder.api.x509 import Identity, Peer, Svid, load
from forwarder.errors import InvalidRequest
from forwarder.security import certificates

_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token and when it expires."""

    text: str = field(repr=False)
    """A JWT (RFC 7519)."""
    expires: int
    """Nanoseconds since the epoch; for PathSegment.expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token says. Nothing here was verified."""

    subject: str
    """SPIFFE ID of who made it."""
    audience: tuple[str, ...]
    """SPIFFE IDs of whom it was made for."""
    expires: int
    """Seconds since the epoch; 0 if it does not say."""


class TokenSource(Protocol):
    """Makes tokens that say who we are."""

    def token(self, peer: Peer | None) -> Token:
        """Makes a token for `peer`; None where the transport has no identities."""
        ...


class UnsignedTokens:
    """Tokens that anybody could have made, for a mesh on plaintext transport.

    They have the form of the signed ones (header, `sub`, `aud`, `exp`) with algorithm "none"
    (RFC 7519 section 6), so paths, expiry and refresh work as ever; they prove nothing, and peers
    with policies refuse them. Only for tests and for meshes asked to be insecure.
    """

    def __init__(self, *, identity: str, lifetime_s: float, now: "Now" = time.time) -> None:
        """Makes tokens of `identity`, a SPIFFE ID, that expire `lifetime_s` after `now`."""
        self.identity = identity
        self.lifetime_s = lifetime_s
        self._now = now

    def token(self, peer: Peer | None) -> Token:
        """Makes a token; whoever `peer` is will have to take our word."""
        expires = _nanoseconds(self._now() + self.lifetime_s)
        return Token(text=_unsigned(self.identity, _audience(peer), expires // _NANOSECONDS), expires=expires)


class SvidTokens:
    """Tokens signed with the key of our SVID: ES256 (RFC 7518, section 3.4), one audience.

    They expire after a lifetime, or with our certificate when that ends earlier. What is told
    beside the token ends with the peer's certificate too.

    Source: Network Service Mesh sdk, `pkg/tools/spiffejwt`.
    """

    def __init__(self, identity: Identity, *, lifetime_s: float, now: "Now" = time.time) -> None:
        """Signs as `identity` is at the time; `lifetime_s` is what NSM_MAX_TOKEN_LIFETIME says."""
        self.identity = identity
        self.lifetime_s = lifetime_s
        self._now = now

    def token(self, peer: Peer | None) -> Token:
        """Makes a token that `peer` can check with the certificate that we showed it.

        Raises ConfigError if our key is none of P-256.
        """
        svid = self.identity.svid if peer is None or peer.shown is None else peer.shown
        expires = min(_nanoseconds(self._now() + self.lifetime_s), _end(svid.certificates[0]))
        payload = _payload(svid.identity, _audience(peer), expires // _NANOSECONDS)
        if peer is not None:
            expires = min(expires, _end(peer.certificate))
        return Token(text=jwt.encode(payload, _key(svid), algorithm="ES256"), expires=expires)


@lru_cache(maxsize=256)
def _unsigned(identity: str, audience: tuple[str, ...], expires_s: int) -> str:
    """Remembered: without a signature all tokens of one second are the same."""
    return jwt.encode(_payload(identity, audience, expires_s), "", algorithm="none")


def _payload(identity: str, audience: tuple[str, ...], expires_s: int) -> dict[str, Any]:
    payload: dict[str, Any] = {"sub": identity, "exp": expires_s}
    if audience:
        payload["aud"] = list(audience)
    return payload


def _audience(peer: Peer | None) -> tuple[str, ...]:
    return () if peer is None else (peer.identity,)


def _nanoseconds(moment: float) -> int:
    # A float of this size times a billion is off by more than a hundred; its fraction is not.
    return int(moment) * _NANOSECONDS + round(moment % 1 * _NANOSECONDS)


@lru_cache(maxsize=16)
def _key(svid: Svid) -> ec.EllipticCurvePrivateKey:
    return certificates.signing_key(svid.private_key, svid.identity)


@lru_cache(maxsize=1024)
def _end(certificate: bytes) -> int:
    """Returns when a certificate ends, in nanoseconds since the epoch."""
    return calendar.timegm(load(certificate).not_valid_after_utc.utctimetuple()) * _NANOSECONDS


class Now(Protocol):
    """Tells the time in seconds since the epoch, as `time.time` and `Clock.now` do."""

    def __call__(self) -> float:
        """Returns it."""
        ...


def claims(token: str) -> Claims:
    """Reads a token without verifying anything.

    Raises InvalidRequest if it is not a JWT with a JSON object inside, or a claim has a wrong type.
    """
    try:
        payload = jwt.decode_complete(token, options={"verify_signature": False})["payload"]
        subject, audience, expires = payload.get("sub", ""), payload.get("aud", []), payload.get("exp", 0)
    except (jwt.PyJWTError, json.JSONDecodeError, ValueError, RecursionError) as error:
        raise InvalidRequest("token: not a JWT", detail=str(error)) from error
    audience = [audience] if isinstance(audience, str) else audience
    if (
        not isinstance(subject, str)
        or not isinstance(audience, list)
        or not all(isinstance(each, str) for each in audience)
        or not isinstance(expires, int)
    ):
        raise InvalidRequest("token: sub, aud or exp has a wrong type")
    return Claims(subject=subject, audience=tuple(audience), expires=expires)
