"""What the bytes of a connection mean: themselves, or TLS around them. No I/O here."""

import contextlib
import ssl
from typing import Final, Protocol

from forwarder.api.x509 import Svid
from forwarder.errors import RemoteProtocolError

_RECORD_BYTES: Final = 16384


class Stream(Protocol):
    """Turns what comes from the peer into plaintext, and plaintext into what goes to the peer."""

    ended: bool
    """The peer has said that no more will come."""

    def receive(self, data: bytes) -> bytes:
        """Takes bytes from the peer, and returns the plaintext that is complete with them.

        Raises RemoteProtocolError for what a peer must not send.
        """
        ...

    def send(self, data: bytes) -> bytes:
        """Takes plaintext; returns the bytes for the peer."""
        ...

    def output(self) -> bytes:
        """Returns bytes for the peer that are due without any plaintext."""
        ...

    def end(self) -> bytes:
        """Returns the bytes that tell the peer that no more will come."""
        ...


class Plain:
    """Bytes as they are."""

    ended = False

    def receive(self, data: bytes) -> bytes:
        """Returns them."""
        return data

    def send(self, data: bytes) -> bytes:
        """Returns them."""
        return data

    def output(self) -> bytes:
        """Returns nothing."""
        return b""

    def end(self) -> bytes:
        """Returns nothing: the end of the socket's stream says it."""
        return b""


class Tls:
    """One TLS connection. Its handshake comes first, `receive` and `send` after it."""

    def __init__(self, context: ssl.SSLContext, shown: Svid, *, server_side: bool) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self.shown = shown
        """Who we say we are."""
        self.ended = False

    def handshake(self, data: bytes) -> bool:
        """Takes bytes from the peer, and says whether the handshake is complete; `output` is due in any case.

        Raises RemoteProtocolError that says why there will be no connection.
        """
        self._in.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise RemoteProtocolError("TLS handshake", detail=reason(error)) from error
        return True

    def receive(self, data: bytes) -> bytes:
        """Decrypts."""
        self._in.write(data)
        parts = []
        try:
            while not self.ended and (self._in.pending or self.tls.pending()):
                part = self.tls.read(_RECORD_BYTES)
                self.ended = not part  # close_notify
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise RemoteProtocolError("TLS connection", detail=reason(error)) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def send(self, data: bytes) -> bytes:
        """Encrypts."""
        self.tls.write(data)
        return self._out.read()

    def output(self) -> bytes:
        """Returns what TLS itself has to say."""
        return self._out.read() if self._out.pending else b""

    def end(self) -> bytes:
        """Says close_notify."""
        with contextlib.suppress(ssl.SSLError):  # it would wait for the peer's, which `receive` will see
            self.tls.unwrap()
        return self._out.read()


def reason(error: ssl.SSLError) -> str:
    """Says in words what OpenSSL found."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    name = error.reason or ""
    _, is_alert, alert = name.partition("ALERT_")
    if is_alert:
        return f"the peer refused with the alert {alert.replace('_', ' ').lower()!r}"
    if name in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE"):
        return "the peer does not speak TLS"
    return name.replace("_", " ").lower() or str(error)
