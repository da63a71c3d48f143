"""A certificate authority for one trust domain, in memory: roots, and the SVIDs of workloads.

What a root goes through, with L its lifetime:

    0            L/2                 2L/3                    L
    in the bundle ─────────────────────────────────────────── out of it
    signs ────────────────────────────▶
                 its successor is in the bundle, and from 2L/3 on signs

so that everybody has heard of a root before it is used, and keeps it for as long as what it has
signed is good. The first root of all signs at once.

Source: SPIFFE X509-SVID specification, sections 2 to 4 and appendix A.
"""

import asyncio
import datetime
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.x509 import Svid, load
from forwarder.clock import Clock, SystemClock
from forwarder.errors import ConfigError

SVID_LIFETIME_S: Final = 3600.0
ROOT_LIFETIME_S: Final = 7 * 24 * 3600.0
SKEW_S: Final = 60.0
"""How far certificates reach into the past, for peers whose clocks are behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signer:
    """A key that signs certificates, and the certificates that lead to it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    intermediates: tuple[x509.Certificate, ...]
    """The signer's own first; without the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Root:
    """A root, when it was made, and who signs below it."""

    made: float
    certificate: x509.Certificate
    signer: _Signer


class Authority:
    """Issues SVIDs of one trust domain. Opens nothing; `step` moves its roots along."""

    def __init__(
        self,
        trust_domain: str,
        *,
        svid_lifetime_s: float = SVID_LIFETIME_S,
        root_lifetime_s: float = ROOT_LIFETIME_S,
        intermediates: int = 0,
        clock: Clock | None = None,
    ) -> None:
        """Makes the first root; `intermediates` certificates stand between it and each SVID.

        Raises InvalidRequest for what is no trust domain, and ConfigError if SVIDs were to outlive
        the time that a root has left when it stops signing.
        """
        self.id = SpiffeId.parse(f"spiffe://{trust_domain}")
        self.clock = clock or SystemClock()
        self.svid_lifetime_s = svid_lifetime_s
        self._root_lifetime_s = root_lifetime_s
        self._intermediates = intermediates
        self._federated: dict[str, tuple[bytes, ...]] = {}
        self._changed = asyncio.Event()
        if self.id.path or not 0 < svid_lifetime_s <= root_lifetime_s / 3:
            raise ConfigError(
                f"authority of {trust_domain}: SVIDs of {svid_lifetime_s:g} s under roots of {root_lifetime_s:g} s",
                hint="a root lives at least three times as long as an SVID",
            )
        now = self.clock.now()
        # The first is the root that signs.
        self._roots = [self._new_root(now)]

    # Whom to trust ------------------------------------------------------------------------

    @property
    def bundle(self) -> tuple[bytes, ...]:
        """The DER certificates of our roots, those to come included."""
        return tuple(map(_der, (root.certificate for root in self._roots)))

    @property
    def federated(self) -> Mapping[str, tuple[bytes, ...]]:
        """The DER certificates of the other trust domains that our workloads trust."""
        return dict(self._federated)

    def federate(self, trust_domain: str, certificates: Sequence[bytes]) -> None:
        """Lets our workloads trust another trust domain, by these DER certificates from now on; by none to stop.

        Raises InvalidRequest for what is no trust domain or no certificate, and ConfigError for our own.
        """
        other = SpiffeId.parse(f"spiffe://{trust_domain}")
        for certificate in certificates:
            load(certificate)
        if other.path or other == self.id:
            raise ConfigError(f"{self.id} cannot be federated with {other}")
        before = self._federated.get(trust_domain, ())
        if certificates:
            self._federated[trust_domain] = tuple(certificates)
        else:
            self._federated.pop(trust_domain, None)
        if before != tuple(certificates):
            self._tell()

    # Time ---------------------------------------------------------------------------------

    @property
    def changed(self) -> asyncio.Event:
        """Set when the bundle, or what we are federated with, is not what it was when this was read."""
        return self._changed

    def step(self) -> None:
        """Does what is due: makes the next root, lets it sign, forgets the one that has ended."""
        now = self.clock.now()
        roots = [root for root in self._roots if now < root.made + self._root_lifetime_s]
        if not roots or now >= roots[-1].made + self._root_lifetime_s / 2:
            roots.append(self._new_root(now))
        if roots != self._roots:
            self._roots = roots
            self._tell()

    def next_step(self) -> float:
        """Returns when `step` has something to do, in seconds since the epoch."""
        ends = self._roots[0].made + self._root_lifetime_s
        return min(ends, self._roots[-1].made + self._root_lifetime_s / 2)

    async def wait(self, latest: float, changed: asyncio.Event) -> None:
        """Waits until `changed` is set, it is `latest` or there is a step to do, whichever is first."""
        until = min(latest, self.next_step())
        waiters = [
            asyncio.create_task(changed.wait(), name="change of an authority"),
            asyncio.create_task(self.clock.sleep(until - self.clock.now()), name="next step of an authority"),
        ]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait(waiters)

    async def bundles(self) -> AsyncGenerator[Mapping[str, tuple[bytes, ...]], None]:
        """Yields everybody's DER certificates by trust domain, ours included; again when something changed."""
        last: Mapping[str, tuple[bytes, ...]] = {}
        while True:
            self.step()
            changed = self.changed
            told = {self.id.trust_domain: self.bundle, **self._federated}
            if told != last:
                yield told
            last = told
            await self.wait(math.inf, changed)

    def rotate(self) -> None:
        """Replaces every root by a new one at once, as after a key was lost: what they signed is worth nothing."""
        self._roots = [self._new_root(self.clock.now())]
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Signing ------------------------------------------------------------------------------

    def issue(self, identity: SpiffeId, *, lifetime_s: float | None = None) -> Svid:
        """Makes a key and a certificate for a workload, valid for `lifetime_s` (that of every SVID).

        Raises ConfigError if the identity is not of our trust domain or names no workload.
        """
        if identity.trust_domain != self.id.trust_domain or not identity.path:
            raise ConfigError(f"{self.id} issues no SVID for {identity}")
        self.step()
        now = self.clock.now()
        root = self._signing(now)
        ends = min(
            now + (self.svid_lifetime_s if lifetime_s is None else lifetime_s), root.made + self._root_lifetime_s
        )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(f"{identity}", key.public_key(), root.signer.certificate.subject, now, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(_issued_by(root.signer.key), critical=False)
            .sign(root.signer.key, hashes.SHA256())
        )
        return Svid(
            identity=str(identity),
            certificates=tuple(map(_der, (certificate, *root.signer.intermediates))),
            private_key=key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def _signing(self, now: float) -> _Root:
        known = [root for root in self._roots[1:] if now >= root.made + self._root_lifetime_s / 6]
        return known[-1] if known else self._roots[0]

    def _new_root(self, now: float) -> _Root:
        ends = now + self._root_lifetime_s
        signer: _Signer | None = None
        for depth in range(self._intermediates + 1):
            key = ec.generate_private_key(ec.SECP256R1())
            builder = _builder(
                str(self.id), key.public_key(), signer.certificate.subject if signer else None, now, ends
            )
            certificate = (
                builder.add_extension(
                    x509.BasicConstraints(ca=True, path_length=self._intermediates - depth), critical=True
                )
                .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
                .add_extension(_issued_by(signer.key if signer else key), critical=False)
                .sign(signer.key if signer else key, hashes.SHA256())
            )
            if signer is None:
                root = certificate
                signer = _Signer(key=key, certificate=certificate, intermediates=())
            else:
                signer = _Signer(key=key, certificate=certificate, intermediates=(certificate, *signer.intermediates))
        assert signer is not None
        return _Root(made=now, certificate=root, signer=signer)


def _builder(
    uri: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name | None, now: float, ends: float
) -> x509.CertificateBuilder:
    serial = x509.random_serial_number()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "vwire"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"),
        ]
    )
    return (
        x509.CertificateBuilder()
        .serial_number(serial)
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .not_valid_before(_utc(now - SKEW_S))
        .not_valid_after(_utc(ends))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _utc(moment: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
