"""Mutual TLS between SPIFFE identities: what we show, whom we believe.

Certificates and bundles are looked at anew for each handshake, so that a rotation counts from the
next connection on; those that stand are left alone.

Source: SPIFFE X509-SVID specification, sections 2 to 5; RFC 8446; go-spiffe `spiffetls/tlsconfig`.
"""

import base64
import os
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from forwarder.api.x509 import Identity, Peer, Svid, identity_of, load
from forwarder.errors import ConfigError, InvalidRequest, RemoteProtocolError
from forwarder.rpc.stream import Tls

ALPN: Final = "h2"
"""RFC 9113, section 3.2."""
_DER: Final = 2  # _ssl.ENCODING_DER


class TlsIdentity:
    """An identity as OpenSSL wants it: contexts are made when something has changed, and used until then."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._svid: Svid | None = None
        self._bundles: dict[str, tuple[bytes, ...]] = {}
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def stream(self, *, server_side: bool) -> Tls:
        """Begins a connection with the identity as it is now.

        Raises ConfigError if the identity's certificate or key cannot be used.
        """
        svid, bundles = self._identity.svid, self._identity.bundles
        if svid != self._svid or bundles != self._bundles:
            self._contexts.clear()
            self._svid, self._bundles = svid, dict(bundles)
        if server_side not in self._contexts:
            self._contexts[server_side] = _context(svid, bundles, server_side=server_side)
        return Tls(self._contexts[server_side], svid, server_side=server_side)

    def peer(self, stream: Tls) -> Peer:
        """Returns who is at the other end of a connection whose handshake is complete.

        Raises RemoteProtocolError that says why it is not to be believed.
        """
        if stream.tls.selected_alpn_protocol() != ALPN:
            raise RemoteProtocolError(f"TLS handshake: the peer does not offer the protocol {ALPN!r} by ALPN")
        certificate = stream.tls.getpeercert(binary_form=True)
        if certificate is None:
            raise RemoteProtocolError("TLS handshake: the peer has no certificate")
        return replace(peer_of(certificate, _anchor(stream.tls), self._identity.bundles), shown=stream.shown)


def peer_of(certificate: bytes, anchor: bytes | None, bundles: Mapping[str, tuple[bytes, ...]]) -> Peer:
    """Returns whom a leaf certificate names, DER; `anchor` is the trusted certificate that its chain ends in.

    Raises RemoteProtocolError if it is no workload's SVID, or `anchor` does not speak for its trust domain.
    """
    try:
        identity = identity_of(load(certificate))
    except InvalidRequest as error:
        raise RemoteProtocolError("TLS handshake: the peer's certificate is no SVID", detail=str(error)) from error
    problem = f"TLS handshake: the peer's certificate for {identity}"
    if not identity.path:
        raise RemoteProtocolError(f"{problem} names no workload")
    authorities = bundles.get(identity.trust_domain)
    if authorities is None:
        known = ", ".join(sorted(bundles)) or "none"
        raise RemoteProtocolError(
            f"{problem}: the trust domain {identity.trust_domain} is not known", detail=f"known: {known}"
        )
    if anchor not in authorities:
        raise RemoteProtocolError(f"{problem} was issued by an authority of another trust domain")
    return Peer(identity=str(identity), certificate=certificate)


def _context(svid: Svid, bundles: Mapping[str, tuple[bytes, ...]], *, server_side: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a SPIFFE ID is no host name
    context.verify_mode = ssl.CERT_REQUIRED
    # A bundle's certificate is trusted as it is, whoever signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    # A session that is resumed would not show its certificate again.
    context.options |= ssl.OP_NO_TICKET
    # TLS 1.2 could exchange certificates under way, and who the peer is has been found out by then.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if server_side:
        context.num_tickets = 0
    try:
        for authority in {each for bundle in bundles.values() for each in bundle}:
            context.load_verify_locations(cadata=authority)
        _load(context, svid)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"the certificate, key or bundle of {svid.identity} cannot be used", detail=str(error)
        ) from error
    return context


def _load(context: ssl.SSLContext, svid: Svid) -> None:
    """Gives a context the certificates and the key, which it takes only from a file: one in memory."""
    pem = "".join(ssl.DER_cert_to_PEM_cert(each) for each in svid.certificates)
    key = base64.encodebytes(svid.private_key).decode()
    pem += f"-----BEGIN PRIVATE KEY-----\n{key}-----END PRIVATE KEY-----\n"
    file = os.memfd_create("svid", os.MFD_CLOEXEC)
    try:
        os.write(file, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)


def _anchor(tls: ssl.SSLObject) -> bytes | None:
    """Returns the trusted certificate at the end of the peer's chain, DER."""
    if hasattr(tls, "get_verified_chain"):  # Python 3.13
        chain: list[bytes] = tls.get_verified_chain()
        return chain[-1] if chain else None
    found = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return bytes(found[-1].public_bytes(_DER)) if found else None
