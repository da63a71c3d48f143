"""Who may ask what of which connection.

Policies look at the path up to our own segment. Events of our own, such as an expiry, are nobody's and
are not checked. Beyond NSM's policies, an established connection is changed and closed only by the
caller that asked for it, as TLS proves it (`security.check_caller`), and for the client that began it, as
the first token of its path names it.

Source: Network Service Mesh sdk, `common/authorize` and `pkg/tools/monitorconnection/authorize`.
"""

import logging
from collections import defaultdict

from forwarder.api.connection_pb2 import Connection, MonitorScopeSelector
from forwarder.connection.path import Position
from forwarder.errors import NotAuthorized
from forwarder.rpc import Call
from forwarder.security import DENIED, MonitorInput, NetworkServiceInput, Policies, check_caller, owner_of

_log = logging.getLogger(__name__)


class Access:
    """The policies of a server, and which connections each caller has."""

    def __init__(self, policies: Policies | None = None, monitor: Policies | None = None) -> None:
        """Without policies everything is allowed."""
        self._policies = policies
        self._monitor = monitor
        self._callers: dict[str, tuple[str, str]] = {}
        """By our id of a connection: the caller's SPIFFE ID, and its own id of the connection."""

    async def check(self, connection: Connection, index: int, call: Call, *, known: Connection | None) -> None:
        """Returns if `call` may make, change or close `connection`, whose own segment is at `index`.

        `known` is the connection as it was established, if it was.
        Raises NotAuthorized, and PolicyError if a policy cannot be evaluated.
        """
        if not call.peer and call.tls_peer is None:
            return
        if self._policies:
            await self._policies.check(NetworkServiceInput.of_call(connection.path, index, call.tls_peer))
        if call.tls_peer is not None and known is not None:
            asked_by, _ = self._callers.get(known.id, ("", ""))
            try:
                _same_owner(connection, known)
                check_caller(asked_by, call.tls_peer)
            except NotAuthorized as error:
                _log.warning("denied: %s", error.detail)
                raise

    async def check_monitor(self, selector: MonitorScopeSelector, call: Call) -> None:
        """Returns if `call` may watch what is within `selector`; raises as `check` does."""
        if not self._monitor or call.tls_peer is None:
            return
        connections: defaultdict[str, list[str]] = defaultdict(list)
        for identity, caller_id in self._callers.values():
            connections[identity].append(caller_id)
        await self._monitor.check(
            MonitorInput(
                connections=connections,
                selected=[segment.id for segment in selector.path_segments],
                caller=call.tls_peer.identity,
                peer=call.tls_peer,
            )
        )

    def established(self, position: Position, call: Call) -> None:
        """Remembers whose connection it is."""
        if call.tls_peer is not None:
            self._callers[position.own_id] = call.tls_peer.identity, position.caller_id

    def closed(self, connection_id: str) -> None:
        """Forgets it."""
        self._callers.pop(connection_id, None)


def _same_owner(connection: Connection, known: Connection) -> None:
    asking, owner = _owner(connection), _owner(known)
    if owner and asking != owner:
        raise NotAuthorized(DENIED, detail=f"the connection belongs to {owner}, not to {asking or 'an unknown client'}")


def _owner(connection: Connection) -> str:
    segments = connection.path.path_segments
    return owner_of(segments[0].token) if segments else ""
