"""From two agreed mechanisms to a vWire, and to another one when they change.

A Wiring holds up to three things: the endpoint's port, the caller's port, and the vWire that
joins them. `apply` compares them with what is wanted. What fits stays untouched; what is new is
opened before what it replaces is closed; when anything fails, what was there before is there again.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.context import Side
from forwarder.api.path import copy
from forwarder.connection.shielded import shielded, undone_on_failure
from forwarder.dataplane import Port
from forwarder.dataplane.statistics import VwireStatistics
from forwarder.errors import ForwarderError
from forwarder.mechanisms import Mechanisms, OpenPort
from forwarder.service.offer import unsupported, with_held_parameters

_log = logging.getLogger(__name__)


class Vwire(Protocol):
    """Two joined ports."""

    def statistics(self) -> VwireStatistics:
        """Returns what has flowed, `a` being the caller's port."""
        ...


class Vwires(Protocol):
    """What joins ports: the data plane."""

    def vwire(self, a: Port, b: Port, *, name: str = "") -> AbstractAsyncContextManager[Vwire]:
        """Joins two open ports for as long as the context lasts."""
        ...


class _End:
    """One open port and how it came about."""

    def __init__(self, side: Side, connection: Connection, opened: OpenPort, stack: AsyncExitStack) -> None:
        self.side = side
        self.connection = connection
        """With this side's mechanism; its context is what was last applied."""
        self.opened = opened
        self.stack = stack

    def fits(self, connection: Connection) -> bool:
        return (
            connection.mechanism.type == self.connection.mechanism.type
            and connection.payload == self.connection.payload
            and not self.opened.port.dead
            and self.opened.serves(connection)
        )


class Wiring:
    """The ports and the vWire of one connection.

    `broken` is called when a port dies. The vWire stays until it is replaced or closed; a memif
    port comes back to life with its peer's next connection.
    """

    def __init__(self, mechanisms: Mechanisms, vwires: Vwires, name: str, broken: Callable[[str], None]) -> None:
        self._mechanisms = mechanisms
        self._vwires = vwires
        self._name = name
        self._broken = broken
        self._ends: dict[Side, _End] = {}
        self._joined = AsyncExitStack()
        self.vwire: Vwire | None = None

    def mechanism(self, side: Side) -> Mechanism | None:
        """Returns the mechanism in use on one side, with the parameters that we chose."""
        end = self._ends.get(side)
        return end.connection.mechanism if end is not None else None

    def interface(self, side: Side) -> str:
        """Returns `<TYPE>/<name>` of one side's port, empty if it is not open."""
        end = self._ends.get(side)
        return end.opened.interface if end is not None else ""

    @property
    def broken_port(self) -> str:
        """Returns which port is dead and why; empty when all is well."""
        for end in self._ends.values():
            if end.opened.port.dead:
                return f"{end.opened.interface}: {end.opened.port.fault}"
        return ""

    async def apply(
        self, agreed: Connection, endpoint: Mechanism, asked: Sequence[Mechanism], *, seconds: float
    ) -> Mechanism:
        """Opens, keeps or replaces ports, joins them, and applies the connection's context.

        The endpoint's side comes first. Of the mechanisms that the caller asked for, the first
        whose port opens is used, and returned with the parameters we chose. `seconds` limits going
        back when something fails. Raises what opening raised; when several mechanisms failed,
        MechanismUnsupported that tells why each did.
        """
        async with undone_on_failure(seconds) as undo:
            new = {
                Side.ENDPOINT: await self._end(Side.ENDPOINT, agreed, endpoint, undo),
                Side.CLIENT: await self._first_end(agreed, asked, undo),
            }
            old = dict(self._ends)
            if new != old:
                await self._join(new, undo)
            for side, end in new.items():
                await self._update(end, agreed, undo, kept=old.get(side) is end)
        replaced = [end for side, end in old.items() if new[side] is not end]
        if replaced:
            await shielded(_close(replaced), seconds)
        return copy(new[Side.CLIENT].connection.mechanism)

    async def aclose(self) -> None:
        """Takes the vWire out, then closes the caller's port, then the endpoint's; all are tried."""
        ends, self._ends = self._ends, {}
        async with AsyncExitStack() as stack:
            for side in (Side.ENDPOINT, Side.CLIENT):
                if side in ends:
                    stack.push_async_callback(ends[side].stack.aclose)
            stack.push_async_callback(self._part)

    async def _first_end(self, agreed: Connection, asked: Sequence[Mechanism], undo: AsyncExitStack) -> _End:
        failures: list[ForwarderError] = []
        for mechanism in asked:
            try:
                return await self._end(Side.CLIENT, agreed, mechanism, undo)
            except ForwarderError as error:
                _log.info("mechanism %s cannot be used: %s", mechanism.type, error)
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        told = "; ".join(f"{each.type}: {error}" for each, error in zip(asked, failures, strict=True))
        raise unsupported([each.type for each in asked], self._mechanisms, told) from failures[-1]

    async def _end(self, side: Side, agreed: Connection, mechanism: Mechanism, undo: AsyncExitStack) -> _End:
        """Returns the open port if it fits, otherwise opens one, which `undo` closes."""
        wanted = copy(agreed)
        wanted.mechanism.CopyFrom(with_held_parameters(mechanism, self.mechanism(side)))
        current = self._ends.get(side)
        if current is not None and current.fits(wanted):
            return current
        stack = AsyncExitStack()
        # Before it is entered, so that a cancellation right after opening finds it.
        undo.push_async_callback(stack.aclose)
        opened = await stack.enter_async_context(self._mechanisms[mechanism.type].open(side, wanted))
        end = _End(side, wanted, opened, stack)
        self._listen(opened)
        return end

    def _listen(self, opened: OpenPort) -> None:
        """Asks to be called when the port dies, after whoever asked before."""
        port = opened.port
        first = port.on_fault

        def died(fault: str) -> None:
            if first is not None:
                first(fault)
            self._broken(f"{opened.interface}: {fault}")

        port.on_fault = died

    async def _join(self, new: dict[Side, _End], undo: AsyncExitStack) -> None:
        """Puts a vWire between the new ends in place of the one there is."""
        old = dict(self._ends)
        undo.push_async_callback(self._rejoin, old)
        await self._part()
        self._ends = new
        self.vwire = await self._joined.enter_async_context(
            self._vwires.vwire(new[Side.CLIENT].opened.port, new[Side.ENDPOINT].opened.port, name=self._name)
        )

    async def _rejoin(self, old: dict[Side, _End]) -> None:
        await self._part()
        self._ends = old
        if len(old) == len(Side):
            self.vwire = await self._joined.enter_async_context(
                self._vwires.vwire(old[Side.CLIENT].opened.port, old[Side.ENDPOINT].opened.port, name=self._name)
            )

    async def _part(self) -> None:
        joined, self._joined, self.vwire = self._joined, AsyncExitStack(), None
        await joined.aclose()

    async def _update(self, end: _End, agreed: Connection, undo: AsyncExitStack, *, kept: bool) -> None:
        """Applies the context, and on failure the one before."""
        before = end.connection
        after = copy(agreed)
        after.mechanism.CopyFrom(before.mechanism)

        async def restore() -> None:
            end.connection = before
            await end.opened.update(before)

        if kept and before.context != after.context:
            undo.push_async_callback(restore)
        await end.opened.update(after)
        end.connection = after


async def _close(replaced: Sequence[_End]) -> None:
    for end in replaced:
        try:
            await end.stack.aclose()
        except (ForwarderError, OSError) as error:
            _log.warning("closing the replaced port %s: %s", end.opened.interface, error)
