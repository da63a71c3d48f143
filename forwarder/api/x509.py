"""X.509 identities as the rooms hand them to each other: who we are, whom we trust, who the peer is.

Source: SPIFFE X.509-SVID and SPIFFE Trust Domain and Bundle specifications.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """A certificate that says who we are, and the key that proves it."""

    identity: str
    """SPIFFE ID, `spiffe://trust-domain/path`."""
    certificates: tuple[bytes, ...]
    """Leaf first, then intermediates; each DER."""
    private_key: bytes = field(repr=False)
    """PKCS #8, DER, not encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a TLS connection; its certificate was verified."""

    identity: str
    """SPIFFE ID."""
    certificate: bytes
    """Its leaf, DER."""
    shown: Svid | None = field(default=None, repr=False)
    """What we showed it when the connection began, if that is known: what we sign for it, it checks with this."""


class Identity(Protocol):
    """Who we are and whom we trust, now: both change while a program runs."""

    @property
    def svid(self) -> Svid:
        """What to show and to sign with from now on."""
        ...

    @property
    def bundles(self) -> Mapping[str, tuple[bytes, ...]]:
        """Trust domain (`example.org`, without scheme) to the DER certificates of its authorities."""
        ...
