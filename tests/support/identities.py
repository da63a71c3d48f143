"""Identities that peers should believe, and some they should not."""

import datetime
import secrets
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forwarder.api.x509 import Svid
from tests.support.certificates import pkcs8

_DAY = datetime.timedelta(days=1)


class Held:
    """An identity that a test changes by hand."""

    def __init__(self, svid: Svid, bundles: Mapping[str, tuple[bytes, ...]]) -> None:
        self.svid = svid
        self.bundles = bundles


class TrustDomain:
    """An authority that signs whatever it is told to."""

    def __init__(self, name: str = "example.org") -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        own_name = f"authority {secrets.token_hex(4)} of {name}"
        self._certificate = _certificate(
            self._key, self._key, own_name, issuer=None, uris=[f"spiffe://{name}"], ca=True
        )

    @property
    def bundle(self) -> tuple[bytes, ...]:
        """Its certificate, DER."""
        return (_der(self._certificate),)

    @property
    def bundles(self) -> Mapping[str, tuple[bytes, ...]]:
        """A bundle for those who trust nobody else."""
        return {self.name: self.bundle}

    def svid(
        self, path: str, *, uris: Sequence[str] | None = None, ca: bool = False, may_sign: bool = False,
        expired: bool = False,
    ) -> Svid:  # fmt: skip
        """Issues a certificate for `spiffe://<trust domain>/<path>`, or for these `uris`."""
        key = ec.generate_private_key(ec.SECP256R1())
        identity = f"spiffe://{self.name}/{path}"
        certificate = _certificate(
            key, self._key, path, issuer=self._certificate.subject, uris=[identity] if uris is None else uris,
            ca=ca, may_sign=may_sign, expired=expired,
        )  # fmt: skip
        return Svid(identity=identity, certificates=(_der(certificate),), private_key=pkcs8(key))

    def identity(self, path: str, **kind: object) -> Held:
        """Who holds such a certificate, and trusts this domain."""
        return Held(self.svid(path, **kind), self.bundles)  # type: ignore[arg-type]


def _certificate(
    key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, name: str, *, issuer: x509.Name | None,
    uris: Sequence[str], ca: bool = False, may_sign: bool = False, expired: bool = False,
) -> x509.Certificate:  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .not_valid_before(now - 2 * _DAY)
        .not_valid_after(now - _DAY if expired else now + _DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, ca or may_sign, False, False, False), critical=True
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris] or [x509.DNSName("x")]),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
