"""Names of workloads: `spiffe://trust-domain/path`.

Source: SPIFFE-ID specification, section 2.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from forwarder.errors import InvalidRequest

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
LONGEST_BYTES: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeId:
    """The name of a workload, or of a whole trust domain."""

    trust_domain: str
    """As in `example.org`."""
    path: str
    """Begins with a slash; empty for the trust domain itself."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `spiffe://example.org/some/path` and `spiffe://example.org`.

        Raises InvalidRequest for what is no SPIFFE ID. Nothing is normalised: two IDs are the same
        if their texts are.
        """
        scheme, separator, rest = text.partition("://")
        trust_domain, slash, path = rest.partition("/")
        if len(text) > LONGEST_BYTES:
            raise InvalidRequest(f"SPIFFE ID {text[:80]!r}...: longer than {LONGEST_BYTES} bytes")
        if scheme != "spiffe" or not separator or not _TRUST_DOMAIN.fullmatch(trust_domain):
            raise InvalidRequest(f"SPIFFE ID {text!r}: names no trust domain", hint="as in spiffe://example.org/path")
        if slash and any(part in (".", "..") or not _SEGMENT.fullmatch(part) for part in path.split("/")):
            raise InvalidRequest(f"SPIFFE ID {text!r}: its path is not made of letters, digits, '.', '-', '_' and '/'")
        return cls(trust_domain=trust_domain, path=slash + path)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"
