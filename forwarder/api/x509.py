"""X.509 identities as the rooms hand them to each other: who we are, whom we trust, who the peer is.

Source: SPIFFE X.509-SVID and SPIFFE Trust Domain and Bundle specifications.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from forwarder.api.spiffe_id import SpiffeId
from forwarder.errors import InvalidRequest


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


def load(certificate: bytes) -> x509.Certificate:
    """Reads one DER certificate.

    Raises InvalidRequest if it is none.
    """
    try:
        return x509.load_der_x509_certificate(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InvalidRequest(f"a certificate of {len(certificate)} bytes cannot be read", detail=str(error)) from error


def identity_of(certificate: x509.Certificate) -> SpiffeId:
    """Returns the SPIFFE ID of a leaf certificate.

    Raises InvalidRequest if there is not exactly one, or the certificate may sign others.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise InvalidRequest("a certificate's extensions cannot be read", detail=str(error)) from error
    if len(uris) != 1:
        raise InvalidRequest(f"a certificate with {len(uris)} URIs as its name is no SVID")
    identity = SpiffeId.parse(uris[0])
    if _may_sign(certificate):
        raise InvalidRequest(f"the certificate of {identity} may sign others: no leaf of a workload")
    return identity


def _may_sign(certificate: x509.Certificate) -> bool:
    extensions = certificate.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return True
    except x509.ExtensionNotFound:
        pass
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return usage.key_cert_sign or usage.crl_sign
