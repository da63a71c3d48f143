"""Certificates as SPIFFE has them: reading what came from outside.

Source: SPIFFE X509-SVID specification, sections 2 to 5.
"""

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from forwarder.api.x509 import Svid, identity_of, load
from forwarder.errors import ConfigError, InvalidRequest

_SEQUENCE: Final = 0x30
CURVE: Final = "secp256r1"
"""P-256, the curve of ES256."""


def split(data: bytes) -> tuple[bytes, ...]:
    """Parts DER certificates that stand one after the other, without looking into them.

    Raises InvalidRequest if they are not whole.
    """
    certificates = []
    position = 0
    while position < len(data):
        end = _end_of_sequence(data, position)
        certificates.append(data[position:end])
        position = end
    return tuple(certificates)


def _end_of_sequence(data: bytes, start: int) -> int:
    """Returns where the DER sequence that begins at `start` ends (X.690, section 8.1.3)."""
    problem = InvalidRequest(f"certificates of {len(data)} bytes: no whole certificate at byte {start}")
    if len(data) < start + 2 or data[start] != _SEQUENCE:
        raise problem
    first, body = data[start + 1], start + 2
    size = first
    if first & 0x80:
        width = first & 0x7F
        size = int.from_bytes(data[body : body + width])
        body += width
        if not 1 <= width <= 4:
            raise problem
    if body + size > len(data):
        raise problem
    return body + size


def signing_key(private_key: bytes, identity: str) -> ec.EllipticCurvePrivateKey:
    """Reads the key of an SVID, which has to be one that can sign tokens: P-256.

    Raises InvalidRequest for what is no PKCS #8 key, and ConfigError for another kind of key.
    """
    try:
        key = serialization.load_der_private_key(private_key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"the private key of {identity} cannot be read", detail=str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != CURVE:
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else type(key).__name__.strip("_")
        raise ConfigError(
            f"the SVID of {identity} has a key of kind {kind}, and tokens are signed with ES256, which needs P-256",
            hint='SPIRE: workload_x509_svid_key_type = "ec-p256" for the agent',
        )
    return key


def svid(identity: str, certificates: bytes, private_key: bytes) -> Svid:
    """Reads an SVID as the Workload API gives it: chain and PKCS #8 key, both DER.

    Raises InvalidRequest if the leaf is not `identity`'s or the key is another's, and ConfigError
    for a key that cannot sign tokens.
    """
    chain = split(certificates)
    if not chain:
        raise InvalidRequest(f"the SVID of {identity} has no certificate")
    leaf = load(chain[0])
    named = identity_of(leaf)
    if str(named) != identity:
        raise InvalidRequest(f"the SVID of {identity} has the certificate of {named}")
    for intermediate in chain[1:]:
        load(intermediate)
    key = signing_key(private_key, identity)
    try:
        certified = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            f"the SVID of {identity} has a certificate without usable key", detail=str(error)
        ) from error
    if key.public_key() != certified:
        raise InvalidRequest(f"the SVID of {identity} has a key that is not its certificate's")
    return Svid(identity=identity, certificates=chain, private_key=private_key)
