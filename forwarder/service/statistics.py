"""What the forwarder is doing, as plain values for tables, logs and metrics; and its path metrics."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Final

from forwarder.dataplane.statistics import FlowStatistics, VwireStatistics

CLIENT_INTERFACE: Final = "server_interface"
"""Path metric with the interface towards the caller: there we are its mechanism's server."""
ENDPOINT_INTERFACE: Final = "client_interface"
"""Path metric with the interface towards the next hop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus:
    """One established connection."""

    connection_id: str
    """Our own segment's."""
    origin_id: str
    """The client's."""
    client: str
    """Name of the first hop on the path."""
    network_service: str
    endpoint: str
    payload: str
    state: str
    client_interface: str
    """`<TYPE>/<name>` of the port towards the caller."""
    endpoint_interface: str
    """`<TYPE>/<name>` of the port towards the next hop."""
    established_at: float
    """Seconds since the epoch."""
    expires_at: float | None
    """When it is closed unless it is refreshed, in seconds since the epoch."""
    datapath: str
    """What carries the frames."""
    datapath_reason: str
    """Why that does."""
    vwire: VwireStatistics | None
    """Counters since the vWire was made; `a` is the caller's end. A reader takes rates from two of them.
    None when nobody counts: the frames are in memory that two applications share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwarderStatistics:
    """The forwarder at one moment. Counts grow from the start."""

    connections: tuple[ConnectionStatus, ...]
    requests: int
    """Requests that succeeded, refreshes included."""
    failed_requests: int
    """Requests that failed or were cancelled."""
    closes: int
    expired: int
    """Connections closed because nobody refreshed them."""
    pods_gone: int
    """Connections closed because a pod was gone."""
    went_down: int
    """How often a connection's state became DOWN."""
    watchers: int
    """Open monitor streams."""


def write_path_metrics(
    metrics: MutableMapping[str, str],
    statistics: VwireStatistics | None,
    *,
    client_interface: str,
    endpoint_interface: str,
) -> None:
    """Writes the vWire's counters into our path segment, in decimal, as NSM's forwarder does.

    There `server_` is the interface towards the caller, whose mechanism's server we are, and
    `client_` the one towards the next hop. `rx` is what we received from it; `drops` are the frames
    received from it that were not sent.
    """
    metrics[CLIENT_INTERFACE] = client_interface
    metrics[ENDPOINT_INTERFACE] = endpoint_interface
    if statistics is None:
        return
    _write(metrics, "server_", statistics.a_to_b, statistics.b_to_a)
    _write(metrics, "client_", statistics.b_to_a, statistics.a_to_b)


def _write(metrics: MutableMapping[str, str], prefix: str, received: FlowStatistics, sent: FlowStatistics) -> None:
    metrics[f"{prefix}rx_bytes"] = str(received.in_bytes)
    metrics[f"{prefix}rx_packets"] = str(received.in_frames)
    metrics[f"{prefix}tx_bytes"] = str(sent.out_bytes)
    metrics[f"{prefix}tx_packets"] = str(sent.out_frames)
    metrics[f"{prefix}drops"] = str(sum(received.drops.values()))
