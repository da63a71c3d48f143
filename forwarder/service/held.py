"""What the forwarder keeps beside a connection while it is established."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forwarder.api.connection_pb2 import Connection, PathSegment
from forwarder.connection.expiry import ExpiryTimer
from forwarder.service.pods import Pods
from forwarder.service.wiring import Wiring


@dataclass(frozen=True, slots=True, kw_only=True)
class Downstream:
    """The connection at the next hop."""

    url: str
    """The next hop's."""
    connection: Connection
    """As the next hop knows it: its last answer in our view, or what we asked when the answer got lost."""
    let_go: Callable[[], None]
    """Ends that the URL is kept good."""


@dataclass(slots=True, kw_only=True)
class Held:
    """One connection's resources. All of them are undone by the connection's exit stack."""

    wiring: Wiring
    expiry: ExpiryTimer
    pods: Pods
    established_at: float
    downstream: Downstream | None = None
    """None as long as there is nothing to close there."""
    watched_url: str = ""
    """The next hop that is listened to; empty if none is."""

    def vouched_by(self, segments: Sequence[PathSegment]) -> None:
        """Takes over newer tokens of the first segments, ours included: the next hop checks them at the Close."""
        if self.downstream is None:
            return
        for theirs, newer in zip(self.downstream.connection.path.path_segments, segments, strict=False):
            theirs.CopyFrom(newer)
