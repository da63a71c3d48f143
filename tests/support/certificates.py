"""Certificates checked by a verifier that is not ours, and some that no authority should make."""

import datetime
from collections.abc import Iterable, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from forwarder.api.x509 import Svid
from forwarder.security import Authority

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
FAR_AWAY = datetime.datetime(2200, 1, 1, tzinfo=datetime.UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Fixed:
    """An identity that does not change."""

    def __init__(self, svid: Svid, authority: Authority) -> None:
        self.svid = svid
        self.bundles: Mapping[str, tuple[bytes, ...]] = {authority.id.trust_domain: authority.bundle}


def verifies(svid: Svid, roots: Iterable[bytes], moment: float) -> bool:
    """Says whether the chain leads to one of the roots and is good at `moment`, by RFC 5280."""
    leaf, *intermediates = map(x509.load_der_x509_certificate, svid.certificates)
    verifier = (
        PolicyBuilder()
        .store(Store([x509.load_der_x509_certificate(root) for root in roots]))
        .time(datetime.datetime.fromtimestamp(moment, datetime.UTC))
        .extension_policies(
            ca_policy=ExtensionPolicy.permit_all().require_present(
                x509.BasicConstraints, Criticality.CRITICAL, lambda _policy, _certificate, found: _need(found.ca)
            ),
            ee_policy=ExtensionPolicy.permit_all(),
        )
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, intermediates)
    except VerificationError:
        return False
    return True


def _need(is_so: bool) -> None:
    if not is_so:
        raise ValueError("not an authority")


def ends(certificate: bytes) -> float:
    """Returns until when a certificate is good, in seconds since the epoch."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()


def self_signed(key: Key, uris: Sequence[str] = (), *, ca: bool = False, may_sign: bool = False) -> bytes:
    """Makes a certificate that no authority stands behind."""
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder()
        .serial_number(1)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .not_valid_before(LONG_AGO)
        .not_valid_after(FAR_AWAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, may_sign, False, False, False),
            critical=True,
        )
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def pkcs8(key: Key) -> bytes:
    """Writes a private key as the Workload API does."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
