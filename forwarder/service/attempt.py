"""One next hop after the other, until one serves.

A next hop serves when it has agreed and what it agreed to is joined to what the caller asked for.
One that does not leaves nothing behind, there or here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from forwarder.connection import path as paths
from forwarder.connection.path import Position
from forwarder.connection.shielded import shielded
from forwarder.errors import (
    ForwarderError,
    InvalidRequest,
    MechanismUnsupported,
    NextHopError,
    RemoteProtocolError,
    RequestError,
)
from forwarder.rpc import Call
from forwarder.service import offer
from forwarder.service.datapaths import Wish
from forwarder.service.held import Downstream, Held
from forwarder.service.next_hops import Target
from forwarder.service.parts import Parts

MTU_BYTES = 9000
"""What a vWire carries when nobody asked for less: the context's MTU if it comes as 0."""

PAYLOADS = (constants.ETHERNET, constants.IP)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of a candidate that serves."""

    agreed: Connection
    """The next hop's answer, in our view."""
    endpoint: Mechanism
    """Towards the next hop."""
    mechanism: Mechanism
    """Towards the caller."""


async def first_that_serves(
    candidates: Iterable[Target], connection: Connection, attempt: Callable[[Target], Awaitable[Made]]
) -> Made:
    """Returns what came of the first candidate that serves the connection.

    One that fails leaves nothing behind before the next is asked. What would fail with every
    candidate is raised at once; when all failed, the error tells why each did.
    """
    failures: list[tuple[Target, ForwarderError]] = []
    for target in candidates:
        try:
            return await attempt(target)
        except RequestError as error:
            if not isinstance(error, MechanismUnsupported):
                raise
            failures.append((target, error))
        except ForwarderError as error:
            failures.append((target, error))
        _log.info("%s cannot serve %s: %s", target, connection.network_service, failures[-1][1])
    _, last = failures[-1]
    if len(failures) == 1:
        raise last
    raise NextHopError(
        f"all {len(failures)} endpoints that were tried for {connection.network_service!r} failed",
        status=last.status if isinstance(last, NextHopError) else "UNAVAILABLE",
        detail="; ".join(f"{target}: {error}" for target, error in failures),
    ) from last


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Tries one next hop after the other for one Request."""

    parts: Parts
    held: Held
    connection: Connection
    """What is asked for, in our view."""
    position: Position
    call: Call
    asked: Sequence[Mechanism]
    """The mechanisms that the caller takes, best first."""
    wish: Wish
    seconds: float
    """The deadline of undoing."""

    async def __call__(self, target: Target) -> Made:
        """Asks the next hop, and joins what it agreed to with what the caller asked for.

        If anything fails, what was at the next hop before is there again, and nothing of this.
        """
        parts, held = self.parts, self.held
        connection = _completed(self.connection, target, parts.default_payload)
        before = held.downstream
        try:
            outgoing = _outgoing(parts, connection, target, before)
            agreed = await self._ask(outgoing, target)
            endpoint = offer.chosen_by_next_hop(agreed, outgoing.mechanism_preferences, parts.mechanisms)
            mechanism = await held.wiring.apply(agreed, endpoint, self.asked, self.wish, seconds=self.seconds)
        except BaseException:
            after = held.downstream
            if after is not None and (before is None or before.url != after.url):
                held.downstream = before
                await shielded(leave(parts, after, self.seconds), None)  # it has its own deadline
            raise
        if before is not None and before.url != target.url:
            await leave(parts, before, self.seconds)
        return Made(agreed=agreed, endpoint=endpoint, mechanism=mechanism)

    async def _ask(self, outgoing: NetworkServiceRequest, target: Target) -> Connection:
        """Asks the next hop and returns what it agreed to, in our view.

        Whatever happens, `downstream` then tells what there is to close.
        """
        held = self.held
        try:
            async with self.parts.dial(target.url) as server:
                agreed = await server.request(outgoing, timeout_s=self.call.remaining_s())
        except BaseException as error:
            known = held.downstream is not None and held.downstream.url == target.url
            if not known and not (isinstance(error, NextHopError) and _refused(error)):
                # It may have agreed while we stopped listening.
                held.downstream = _at(target, outgoing.connection, held.downstream)
            raise
        held.downstream = _at(target, outgoing.connection, held.downstream)
        paths.to_own(agreed, self.position)
        agreed.context.MTU = agreed.context.MTU or MTU_BYTES
        if agreed.payload != outgoing.connection.payload:
            if agreed.payload:
                raise RemoteProtocolError(
                    f"the next hop changed the payload from {outgoing.connection.payload} to {agreed.payload!r}"
                )
            agreed.payload = outgoing.connection.payload
        held.downstream = _at(target, copy(agreed), held.downstream)
        return agreed


def _completed(connection: Connection, target: Target, default_payload: str) -> Connection:
    """Fills in what finding the next hop told, and what nobody told."""
    connection = copy(connection)
    if target.endpoint_name:
        connection.network_service_endpoint_name = target.endpoint_name
    connection.payload = target.payload or connection.payload or default_payload
    if connection.payload not in PAYLOADS:
        raise InvalidRequest(f"payload {connection.payload!r} is neither {' nor '.join(PAYLOADS)}")
    connection.context.MTU = connection.context.MTU or MTU_BYTES
    return connection


def _outgoing(
    parts: Parts, connection: Connection, target: Target, downstream: Downstream | None
) -> NetworkServiceRequest:
    """Makes our own Request: our preferences, and the mechanism agreed last time."""
    outgoing = NetworkServiceRequest(connection=connection)
    outgoing.mechanism_preferences.extend(offer.offered_to(target.url, connection, parts.mechanisms, parts.priority))
    outgoing.connection.ClearField("mechanism")
    if downstream is None:
        offer.name_as_before(outgoing.mechanism_preferences, connection)
    elif downstream.connection.HasField("mechanism") and downstream.url == target.url:
        outgoing.connection.mechanism.CopyFrom(downstream.connection.mechanism)
    return outgoing


def _at(target: Target, connection: Connection, last: Downstream | None) -> Downstream:
    """Returns what is now at the next hop, whose URL is kept once."""
    if last is not None and last.url == target.url:
        return replace(last, connection=connection)
    return Downstream(url=target.url, connection=connection, let_go=target.keep())


def _refused(error: NextHopError) -> bool:
    """Says whether the next hop certainly holds nothing: it answered that it failed, or was never reached."""
    return error.status not in ("DEADLINE_EXCEEDED", "CANCELLED")


async def leave(parts: Parts, downstream: Downstream, seconds: float) -> None:
    """Closes a connection at the next hop, within `seconds`. A failure is logged: we are leaving anyway."""
    try:
        async with asyncio.timeout(seconds), parts.dial(downstream.url) as server:
            await server.close(downstream.connection, timeout_s=seconds)
    except (ForwarderError, TimeoutError) as error:
        _log.warning("the next hop could not be told to close: %s", error)
    finally:
        downstream.let_go()
