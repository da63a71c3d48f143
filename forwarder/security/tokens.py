"""Tokens: what one hop gives the next to say who it is."""

import json
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt

from forwarder.errors import InvalidRequest

_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token and when it expires."""

    text: str
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

    def token(self, audience: str | None) -> Token:
        """Makes a token for the peer with this SPIFFE ID; None where the transport has no identities."""
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

    def token(self, audience: str | None) -> Token:
        """Makes a token; whoever `audience` is will have to take our word."""
        moment = self._now() + self.lifetime_s
        # A float of this size times a billion is off by more than a hundred; its fraction is not.
        expires = int(moment) * _NANOSECONDS + round(moment % 1 * _NANOSECONDS)
        payload: dict[str, Any] = {"sub": self.identity, "exp": expires // _NANOSECONDS}
        if audience is not None:
            payload["aud"] = [audience]
        return Token(text=jwt.encode(payload, "", algorithm="none"), expires=expires)


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
