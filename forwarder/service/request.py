"""What a Request does, top to bottom.

Nothing is opened before the next hop has agreed. Everything that is opened is on the
connection's exit stack, so failure, cancellation, Close and expiry undo the same things in the
same order. A repeated Request goes through the same steps and finds most of them done.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.context import Side
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.clock import Clock
from forwarder.connection import path as paths
from forwarder.connection.expiry import ExpiryTimer, close_at
from forwarder.connection.path import Position
from forwarder.connection.table import Entry
from forwarder.errors import ForwarderError, InvalidRequest, NextHopError, RemoteProtocolError
from forwarder.mechanisms import Mechanisms
from forwarder.netns import NetnsWatch
from forwarder.rpc import Call
from forwarder.security import TokenSource
from forwarder.service import datapaths, offer, tokens
from forwarder.service.datapaths import Datapaths, Wanted
from forwarder.service.held import Held
from forwarder.service.next_hops import Dial, NextHops, Target
from forwarder.service.pods import Pods
from forwarder.service.statistics import write_path_metrics
from forwarder.service.wiring import Wiring

MTU_BYTES = 9000
"""What a vWire carries when nobody asked for less: the context's MTU if it comes as 0."""

PAYLOADS = (constants.ETHERNET, constants.IP)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the steps work with."""

    name: str
    """Our name on the path."""
    mechanisms: Mechanisms
    datapaths: Datapaths
    datapath: Wanted
    """For a Request that does not say which datapath it wants."""
    next_hops: NextHops
    dial: Dial
    tokens: TokenSource
    clock: Clock
    namespaces: NetnsWatch
    priority: Sequence[str]
    """Mechanism types to offer first."""
    default_payload: str
    """For a connection whose payload nobody has told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What a connection reports between its Requests."""

    expired: Callable[[Entry[Held]], None]
    broken: Callable[[Entry[Held], str], None]
    """A port died; the text says which and why."""
    abandoned: Callable[[Entry[Held], str], None]
    """A pod is gone; the text is the URL of its namespace."""


async def serve_request(
    parts: Parts, entry: Entry[Held], request: NetworkServiceRequest, position: Position, call: Call, events: Events
) -> Connection:
    """Makes or refreshes the connection whose turn it is, and returns it in our own view.

    `request` is ours to change; its connection's path has been advanced to `position`.
    Raises a ForwarderError that says which step failed; what a first Request opened is then left
    on the entry's stack, for the table to undo.
    """
    connection = request.connection
    tokens.put(connection, position, call.metadata, parts.tokens, call.tls_peer)
    expires = close_at(connection, position, call.remaining_s() or 0.0)
    asked = offer.asked_by_caller(request, parts.mechanisms)
    wish = datapaths.wish(connection, parts.datapath)
    _recall(connection, position, entry.connection)
    target = await parts.next_hops.find(connection)
    _complete(connection, target, parts.default_payload)

    held = entry.held or _hold(parts, entry, events)
    before = None if held.downstream is None else (held.url, held.downstream)
    outgoing = _outgoing(parts, connection, target, held)
    agreed = await _ask(parts, held, outgoing, position, target, call, new=not entry.established)
    endpoint = offer.chosen_by_next_hop(agreed, outgoing.mechanism_preferences, parts.mechanisms)
    if before is not None and before[0] != target.url:
        await _leave(parts, *before, entry.seconds)

    mechanism = await held.wiring.apply(agreed, endpoint, asked, wish, seconds=entry.seconds)
    held.pods.follow(mechanism, endpoint)
    held.expiry.arm(expires)
    entry.held = held
    return _answer(agreed, mechanism, held, position)


def _recall(connection: Connection, position: Position, last: Connection | None) -> None:
    """Puts back what a caller that lost our answer cannot repeat: the path behind us and the endpoint's name."""
    segments = connection.path.path_segments
    if last is None or len(segments) > position.own_index + 1:
        return
    segments.extend(last.path.path_segments[position.own_index + 1 :])
    connection.network_service_endpoint_name = (
        connection.network_service_endpoint_name or last.network_service_endpoint_name
    )


def _complete(connection: Connection, target: Target, default_payload: str) -> None:
    """Fills in what finding the next hop told, and what nobody told."""
    if target.endpoint_name:
        connection.network_service_endpoint_name = target.endpoint_name
    connection.payload = target.payload or connection.payload or default_payload
    if connection.payload not in PAYLOADS:
        raise InvalidRequest(f"payload {connection.payload!r} is neither {' nor '.join(PAYLOADS)}")
    connection.context.MTU = connection.context.MTU or MTU_BYTES


def _hold(parts: Parts, entry: Entry[Held], events: Events) -> Held:
    """Makes what a new connection keeps, with its undoing on the stack: the next hop comes last."""
    held = Held(
        wiring=Wiring(parts.datapaths, entry.id, lambda why: events.broken(entry, why)),
        expiry=ExpiryTimer(parts.clock, lambda: events.expired(entry)),
        pods=Pods(parts.namespaces, lambda url: events.abandoned(entry, url)),
        established_at=parts.clock.now(),
    )

    async def leave() -> None:
        if held.downstream is not None:
            await _leave(parts, held.url, held.downstream, entry.seconds)

    entry.stack.push_async_callback(leave)
    entry.stack.push_async_callback(held.wiring.aclose)
    entry.stack.callback(held.pods.close)
    entry.stack.push_async_callback(held.expiry.aclose)
    return held


def _outgoing(parts: Parts, connection: Connection, target: Target, held: Held) -> NetworkServiceRequest:
    """Makes our own Request: our preferences, and the mechanism agreed last time."""
    outgoing = NetworkServiceRequest(connection=connection)
    outgoing.mechanism_preferences.extend(offer.offered_to(target.url, connection, parts.mechanisms, parts.priority))
    outgoing.connection.ClearField("mechanism")
    if held.downstream is not None and held.downstream.HasField("mechanism") and held.url == target.url:
        outgoing.connection.mechanism.CopyFrom(held.downstream.mechanism)
    return outgoing


async def _ask(
    parts: Parts,
    held: Held,
    outgoing: NetworkServiceRequest,
    position: Position,
    target: Target,
    call: Call,
    *,
    new: bool,
) -> Connection:
    """Asks the next hop and returns what it agreed to, in our view.

    Whatever happens, `held` then knows whether there is something to close downstream.
    """
    try:
        async with parts.dial(target.url) as server:
            agreed = await server.request(outgoing, timeout_s=call.remaining_s())
    except BaseException as error:
        if new and not (isinstance(error, NextHopError) and _refused(error)):
            # It may have agreed while we stopped listening.
            held.url, held.downstream = target.url, outgoing.connection
        raise
    held.url, held.downstream = target.url, outgoing.connection
    paths.to_own(agreed, position)
    agreed.context.MTU = agreed.context.MTU or MTU_BYTES
    if agreed.payload != outgoing.connection.payload:
        if agreed.payload:
            raise RemoteProtocolError(
                f"the next hop changed the payload from {outgoing.connection.payload} to {agreed.payload!r}"
            )
        agreed.payload = outgoing.connection.payload
    held.downstream = copy(agreed)
    return agreed


def _refused(error: NextHopError) -> bool:
    """Says whether the next hop certainly holds nothing: it answered that it failed, or was never reached."""
    return error.status not in ("DEADLINE_EXCEEDED", "CANCELLED")


async def _leave(parts: Parts, url: str, connection: Connection, seconds: float) -> None:
    """Closes a connection at the next hop, within `seconds`. A failure is logged: we are leaving anyway."""
    try:
        async with asyncio.timeout(seconds), parts.dial(url) as server:
            await server.close(connection, timeout_s=seconds)
    except (ForwarderError, TimeoutError) as error:
        _log.warning("the next hop could not be told to close: %s", error)


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
