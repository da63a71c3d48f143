"""What a Request does, top to bottom.

Nothing is opened before the next hop has agreed. Everything that is opened is on the
connection's exit stack, so failure, cancellation, Close and expiry undo the same things in the
same order. A repeated Request goes through the same steps and finds most of them done.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.context import Side
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.connection.expiry import ExpiryTimer, close_at
from forwarder.connection.path import Position
from forwarder.connection.table import Entry
from forwarder.rpc import Call
from forwarder.service import datapaths, offer, tokens
from forwarder.service.attempt import Attempt, first_that_serves, leave
from forwarder.service.held import Held
from forwarder.service.parts import Parts
from forwarder.service.pods import Pods
from forwarder.service.statistics import write_path_metrics
from forwarder.service.wiring import Wiring

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What a connection reports between its Requests."""

    expired: Callable[[Entry[Held]], None]
    broken: Callable[[Entry[Held], str], None]
    """A port died; the text says which and why."""
    abandoned: Callable[[Entry[Held], str], None]
    """A pod is gone; the text is the URL of its namespace."""


async def admit(parts: Parts, entry: Entry[Held], connection: Connection, position: Position, call: Call) -> None:
    """Writes the caller's token and ours into the path, and returns if the caller may ask this of the entry.

    Comes before anything is done. Raises NotAuthorized, and PolicyError if that cannot be told.
    """
    tokens.put(connection, position.own_index, call.metadata, parts.tokens, call.tls_peer)
    await parts.access.check(connection, position.own_index, call, known=entry.connection)


async def serve_request(
    parts: Parts, entry: Entry[Held], request: NetworkServiceRequest, position: Position, call: Call, events: Events
) -> Connection:
    """Makes or refreshes the connection whose turn it is, and returns it in our own view.

    `request` is ours to change; its connection's path has been advanced to `position`, and it was admitted.
    Raises a ForwarderError that says which step failed; what a first Request opened is then left
    on the entry's stack, for the table to undo.
    """
    connection = request.connection
    expires = close_at(connection, position, call.remaining_s() or 0.0)
    asked = offer.asked_by_caller(request, parts.mechanisms)
    wish = datapaths.wish(connection, parts.datapath)
    _recall(connection, position, entry.connection)

    held = entry.held or _hold(parts, entry, call, events)
    attempt = Attempt(
        parts=parts, held=held, connection=connection, position=position, call=call,
        asked=asked, wish=wish, seconds=entry.seconds,
    )  # fmt: skip
    async with parts.next_hops.find(connection) as candidates:
        made = await first_that_serves(candidates, connection, attempt)

    held.pods.follow(made.mechanism, made.endpoint)
    held.expiry.arm(expires)
    entry.held = held
    return _answer(made.agreed, made.mechanism, held, position)


async def forget_endpoint(parts: Parts, entry: Entry[Held]) -> None:
    """Leaves the endpoint of an established connection, which keeps what the caller has: another will be asked."""
    held, last = entry.held, entry.connection
    assert held is not None
    assert last is not None
    downstream, held.downstream = held.downstream, None
    if downstream is not None:
        await leave(parts, downstream, entry.seconds)
    del last.path.path_segments[last.path.index + 1 :]
    last.network_service_endpoint_name = ""


def _recall(connection: Connection, position: Position, last: Connection | None) -> None:
    """Puts back what a caller that lost our answer cannot repeat: the path behind us and the endpoint's name."""
    segments = connection.path.path_segments
    if last is None or len(segments) > position.own_index + 1:
        return
    segments.extend(last.path.path_segments[position.own_index + 1 :])
    connection.network_service_endpoint_name = (
        connection.network_service_endpoint_name or last.network_service_endpoint_name
    )


def _hold(parts: Parts, entry: Entry[Held], call: Call, events: Events) -> Held:
    """Makes what a new connection keeps, with its undoing on the stack: the next hop comes last."""
    held = Held(
        wiring=Wiring(parts.datapaths, entry.id, lambda why: events.broken(entry, why)),
        expiry=ExpiryTimer(parts.clock, lambda: events.expired(entry)),
        pods=Pods(parts.namespaces, lambda url: events.abandoned(entry, url)),
        established_at=parts.clock.now(),
    )

    # Mechanisms name files that came with the caller's Request and with next hops' answers.
    entry.stack.enter_context(call.descriptors.kept())
    entry.stack.enter_context(parts.kept(entry.id))

    async def leave_next_hop() -> None:
        if held.downstream is not None:
            await leave(parts, held.downstream, entry.seconds)

    entry.stack.push_async_callback(leave_next_hop)
    entry.stack.push_async_callback(held.wiring.aclose)
    entry.stack.callback(held.pods.close)
    entry.stack.push_async_callback(held.expiry.aclose)
    return held


def _answer(agreed: Connection, mechanism: Mechanism, held: Held, position: Position) -> Connection:
    """Makes our answer, still in our own view: the next hop's, with the caller's mechanism and our metrics."""
    answer = copy(agreed)
    answer.mechanism.CopyFrom(mechanism)
    write_path_metrics(
        answer.path.path_segments[position.own_index].metrics,
        held.wiring.statistics(),
        client_interface=held.wiring.interface(Side.CLIENT),
        endpoint_interface=held.wiring.interface(Side.ENDPOINT),
    )
    return answer
