"""From two agreed mechanisms to a vWire, and to another one when they change.

A Wiring holds up to three things: the endpoint's end, the caller's end, and the joint between
them, all of one datapath. `apply` compares them with what is wanted. What fits stays untouched;
what is new is opened before what it replaces is closed; when anything fails, what was there before
is there again.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.context import Side
from forwarder.api.mechanisms import View
from forwarder.api.path import copy
from forwarder.connection.shielded import shielded, undone_on_failure
from forwarder.dataplane.statistics import VwireStatistics
from forwarder.errors import ForwarderError, RequestError
from forwarder.mechanisms import Datapath, Joint, OpenEnd
from forwarder.service.datapaths import Choice, Datapaths, Wish, choices
from forwarder.service.offer import unsupported, with_held_parameters

_log = logging.getLogger(__name__)


class _End:
    """One open end and how it came about."""

    def __init__(self, datapath: Datapath, connection: Connection, opened: OpenEnd, stack: AsyncExitStack) -> None:
        self.datapath = datapath
        self.connection = connection
        """With this side's mechanism; its context is what was last applied."""
        self.opened = opened
        self.stack = stack

    def fits(self, datapath: Datapath, connection: Connection) -> bool:
        return (
            self.datapath is datapath
            and connection.mechanism.type == self.connection.mechanism.type
            and connection.payload == self.connection.payload
            and not self.opened.fault
            and self.opened.serves(connection)
        )


_Ends = dict[Side, _End]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What `apply` is to bring about."""

    agreed: Connection
    endpoint: Mechanism
    wish: Wish
    undo: AsyncExitStack
    """Goes back to what was before, within `seconds`."""
    seconds: float


class Wiring:
    """The ends and the joint of one connection.

    `broken` is called when an end breaks. The vWire stays until it is replaced or closed; a memif
    port comes back to life with its peer's next connection.
    """

    def __init__(self, datapaths: Datapaths, name: str, broken: Callable[[str], None]) -> None:
        self._datapaths = datapaths
        self._name = name
        self._broken = broken
        self._ends: _Ends = {}
        self._joined = AsyncExitStack()
        self._joint: Joint | None = None
        self._choice: Choice | None = None
        self._fault = ""
        """What broke since the last `apply`, though it may have come back to life."""
        self._broken_ends: _Ends = {}
        """Those it was told of. What breaks because another takes its place is no fault of that one."""
        self._unfit: dict[str, str] = {}
        """Datapaths that failed, and why: `auto` does not try them again."""

    def mechanism(self, side: Side) -> Mechanism | None:
        """Returns the mechanism in use on one side, with the parameters that we chose."""
        end = self._ends.get(side)
        return end.connection.mechanism if end is not None else None

    def interface(self, side: Side) -> str:
        """Returns `<TYPE>/<name>` of one side's end, empty if it is not open."""
        end = self._ends.get(side)
        return end.opened.interface if end is not None else ""

    @property
    def datapath(self) -> str:
        """Returns what carries the frames; empty while nothing does."""
        return self._choice.datapath.name if self._choice is not None else ""

    def outlives(self, url: str) -> bool:
        """Says whether the caller keeps its end while nobody is left in the namespace that `url` means."""
        caller = self.mechanism(Side.CLIENT)
        return self.keeps_client and caller is not None and View(caller).inode_url != url

    @property
    def keeps_client(self) -> bool:
        """Says whether the caller's end stays when another endpoint takes over."""
        return self._choice is not None and self._choice.datapath.keeps_client

    @property
    def reason(self) -> str:
        """Returns why that carries them."""
        return self._choice.reason if self._choice is not None else ""

    @property
    def fault(self) -> str:
        """Returns which end is broken, or was since the last `apply`, and why; empty when all is well."""
        for end in self._ends.values():
            if end.opened.fault:
                return f"{end.opened.interface}: {end.opened.fault}"
        return self._fault if self._broken_ends is self._ends else ""

    def statistics(self) -> VwireStatistics | None:
        """Returns what has flowed, `a` being the caller's end; None where nobody counts."""
        return self._joint.statistics() if self._joint is not None else None

    async def apply(
        self, agreed: Connection, endpoint: Mechanism, asked: Sequence[Mechanism], wish: Wish, *, seconds: float
    ) -> Mechanism:
        """Opens, keeps or replaces ends, joins them, and applies the connection's context.

        Of the mechanisms that the caller asked for, and of the datapaths that may carry each, the
        first that works is used; the mechanism is returned with the parameters we chose. `seconds`
        limits going back when something fails. Raises what failed; when several mechanisms
        did, MechanismUnsupported that tells why each.
        """
        old = dict(self._ends)
        async with undone_on_failure(seconds) as undo:
            undo.callback(self._recall_fault, self._fault)
            self._fault = ""
            task = _Task(agreed=agreed, endpoint=endpoint, wish=wish, undo=undo, seconds=seconds)
            await self._first_mechanism(task, asked)
            for side, end in self._ends.items():
                await self._update(end, agreed, undo, kept=old.get(side) is end)
        replaced = [end for side, end in old.items() if self._ends[side] is not end]
        if replaced:
            await shielded(_close(replaced), seconds)
        return copy(self._ends[Side.CLIENT].connection.mechanism)

    async def aclose(self) -> None:
        """Takes the joint out, then closes the caller's end, then the endpoint's; all are tried."""
        ends, self._ends = self._ends, {}
        async with AsyncExitStack() as stack:
            for side in (Side.ENDPOINT, Side.CLIENT):
                if side in ends:
                    stack.push_async_callback(ends[side].stack.aclose)
            stack.push_async_callback(self._part)

    async def _first_mechanism(self, task: _Task, asked: Sequence[Mechanism]) -> None:
        """Joins the endpoint's mechanism to the first of the caller's that works."""
        failures: list[str] = []
        last: ForwarderError | None = None
        for mechanism in asked:
            try:
                await self._first_datapath(task, mechanism)
            except ForwarderError as error:
                _log.info("mechanism %s cannot be used: %s", mechanism.type, error)
                failures.append(f"{mechanism.type}: {error}")
                last = error
            else:
                return
        assert last is not None
        if len(failures) == 1:
            raise last
        raise unsupported([each.type for each in asked], self._datapaths.mechanisms, "; ".join(failures)) from last

    async def _first_datapath(self, task: _Task, caller: Mechanism) -> None:
        """Joins the endpoint's mechanism to the caller's by the first datapath that works."""
        failed = ""
        possible = choices(task.wish, caller.type, task.endpoint.type, self._datapaths, self._unfit)
        for choice in possible:
            try:
                await self._use(task, replace(choice, reason=failed or choice.reason), caller)
            except RequestError:
                raise  # no other datapath would take it
            except ForwarderError as error:
                if choice is possible[-1]:
                    raise
                failed = f"{choice.datapath.name} failed: {error}"
                self._unfit[choice.datapath.name] = failed
                _log.warning("datapath %s", failed)
            else:
                return

    async def _use(self, task: _Task, choice: Choice, caller: Mechanism) -> None:
        """Opens or keeps both ends, the endpoint's first, and joins them."""
        mechanisms = {Side.ENDPOINT: task.endpoint, Side.CLIENT: caller}
        async with undone_on_failure(task.seconds) as undo:
            new = {
                side: await self._end(choice.datapath, side, task.agreed, mechanism, undo)
                for side, mechanism in mechanisms.items()
            }
            if new != self._ends:
                await self._join(new, choice, undo)
            task.undo.push_async_exit(undo.pop_all())
        self._choice = choice

    async def _end(
        self, datapath: Datapath, side: Side, agreed: Connection, mechanism: Mechanism, undo: AsyncExitStack
    ) -> _End:
        """Returns the open end if it fits, otherwise opens one, which `undo` closes."""
        wanted = copy(agreed)
        wanted.mechanism.CopyFrom(with_held_parameters(mechanism, self.mechanism(side)))
        current = self._ends.get(side)
        if current is not None and current.fits(datapath, wanted):
            return current
        stack = AsyncExitStack()
        # Before it is entered, so that a cancellation right after opening finds it.
        undo.push_async_callback(stack.aclose)
        opened = await stack.enter_async_context(datapath.open(side, wanted))
        return _End(datapath, wanted, opened, stack)

    async def _join(self, new: _Ends, choice: Choice, undo: AsyncExitStack) -> None:
        """Joins the new ends instead of those that are joined."""
        undo.push_async_callback(self._rejoin, self._ends, self._choice)
        await self._part()
        await self._joint_of(new, choice)
        _log.info("carried by datapath %s: %s", choice.datapath.name, choice.reason)

    async def _rejoin(self, old: _Ends, choice: Choice | None) -> None:
        await self._part()
        self._ends, self._choice = old, choice
        if choice is not None:
            await self._joint_of(old, choice)

    async def _joint_of(self, ends: _Ends, choice: Choice) -> None:
        self._ends = ends
        client, endpoint = ends[Side.CLIENT].opened, ends[Side.ENDPOINT].opened
        self._joint = await self._joined.enter_async_context(
            choice.datapath.join(client, endpoint, name=self._name, broken=partial(self._note_fault, ends))
        )

    def _note_fault(self, ends: _Ends, why: str) -> None:
        self._fault, self._broken_ends = why, ends
        self._broken(why)

    def _recall_fault(self, before: str) -> None:
        self._fault = self._fault or before

    async def _part(self) -> None:
        joined, self._joined, self._joint = self._joined, AsyncExitStack(), None
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
            _log.warning("closing the replaced end %s: %s", end.opened.interface, error)
