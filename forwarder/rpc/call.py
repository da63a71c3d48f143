"""One RPC as its handler sees it."""

import time
from dataclasses import dataclass, field

from forwarder.api.x509 import Peer
from forwarder.rpc.descriptors import Descriptors, PassThrough


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is known of an incoming RPC besides its message."""

    method: str = ""
    """Full name, `/networkservice.NetworkService/Request`; empty for an event of our own."""
    peer: str = ""
    """The caller's transport address as gRPC writes it; empty for an event of our own."""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Keys in lower case, in order of arrival; binary values are left out."""
    deadline: float | None = None
    """When the caller stops waiting, by `time.monotonic`; None if it never does."""
    tls_peer: Peer | None = None
    """The caller; None on a transport without TLS, and for an event of our own."""
    descriptors: Descriptors = field(default_factory=PassThrough)
    """Files that came, and go, beside the messages."""

    @classmethod
    def internal(cls, *, timeout_s: float | None = None) -> "Call":
        """Makes the call of an event of our own: nobody's, with `timeout_s` to go."""
        return cls(deadline=None if timeout_s is None else time.monotonic() + timeout_s)

    def remaining_s(self) -> float | None:
        """Returns the seconds until the deadline, at least 0; None if there is none."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - time.monotonic())

    def values(self, key: str) -> tuple[str, ...]:
        """Returns the values of one metadata key."""
        return tuple(value for name, value in self.metadata if name == key)
