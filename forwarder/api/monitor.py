"""Which connections a monitor asked for.

Source: Network Service Mesh API, `helpers.go` of MonitorScopeSelector.
"""

from collections.abc import Mapping, Sequence

from forwarder.api.connection_pb2 import Connection, MonitorScopeSelector, PathSegment


def matches(selector: MonitorScopeSelector, connection: Connection) -> bool:
    """Says whether `connection` is within `selector`; an empty selector takes everything.

    Network services, if any are given, must contain the connection's. Path segments, if any are
    given, must match consecutive segments of the connection's path, starting anywhere.
    """
    if selector.network_services and connection.network_service not in selector.network_services:
        return False
    return _within(selector.path_segments, connection.path.path_segments)


def select(selector: MonitorScopeSelector, connections: Mapping[str, Connection]) -> dict[str, Connection]:
    """Returns the connections within `selector`, by the same keys."""
    return {key: connection for key, connection in connections.items() if matches(selector, connection)}


def _within(wanted: Sequence[PathSegment], path: Sequence[PathSegment]) -> bool:
    return (
        any(
            all(_alike(want, path[start + offset]) for offset, want in enumerate(wanted))
            for start in range(len(path) - len(wanted) + 1)
        )
        or not wanted
    )


def _alike(wanted: PathSegment, actual: PathSegment) -> bool:
    """An empty name, id or token takes any; expiry and metrics do not count."""
    return wanted.name in ("", actual.name) and wanted.id in ("", actual.id) and wanted.token in ("", actual.token)
