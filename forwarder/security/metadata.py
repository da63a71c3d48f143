"""Tokens in the metadata of an RPC.

Source: Network Service Mesh sdk, `pkg/tools/token`.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from forwarder.api.x509 import Peer
from forwarder.errors import InvalidRequest
from forwarder.security import rfc3339
from forwarder.security.tokens import Token, TokenSource

log = logging.getLogger(__name__)

TOKEN: Final = "nsm-client-token"  # noqa: S105 - the name of a key
EXPIRES: Final = "nsm-client-token-expires"


class TokenMetadata:
    """A client's credentials: a fresh token with every RPC. Given to `rpc.dial`."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def metadata(self, peer: Peer | None) -> Sequence[tuple[str, str]]:
        """Returns a new token for `peer` and its expiry as metadata."""
        token = self._source.token(peer)
        return ((TOKEN, token.text), (EXPIRES, rfc3339.text(token.expires)))


def received(metadata: Iterable[tuple[str, str]]) -> Token | None:
    """Returns the caller's token, or None, saying so in the log.

    A key that is missing, that comes twice, or an expiry that cannot be read make it none: it is
    for policies to refuse the call.
    """
    found = list(metadata)
    texts = [value for key, value in found if key == TOKEN]
    expiries = [value for key, value in found if key == EXPIRES]
    if len(texts) != 1 or len(expiries) != 1:
        log.warning("a call came with %d values of %s and %d of %s", len(texts), TOKEN, len(expiries), EXPIRES)
        return None
    try:
        return Token(text=texts[0], expires=rfc3339.parse(expiries[0]))
    except InvalidRequest as error:
        log.warning("a call came with an unusable %s: %s", EXPIRES, error)
        return None
