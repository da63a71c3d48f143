"""What the forwarder keeps beside a connection while it is established."""

import asyncio
from dataclasses import dataclass, field

from forwarder.api.connection_pb2 import Connection
from forwarder.connection.expiry import ExpiryTimer
from forwarder.service.pods import Pods
from forwarder.service.wiring import Wiring


@dataclass(slots=True, kw_only=True)
class Held:
    """One connection's resources. All of them are undone by the connection's exit stack."""

    wiring: Wiring
    expiry: ExpiryTimer
    pods: Pods
    established_at: float
    url: str = ""
    """The next hop's; empty until one has been asked."""
    downstream: Connection | None = None
    """As the next hop knows it: its last answer in our view, or what we asked when the answer got lost.
    None as long as there is nothing to close there."""
    watch: asyncio.Task[None] | None = field(default=None)
    """Listens to the next hop."""
