"""Mechanisms and a data plane that only remember what they were asked, to test who asks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.context import Side
from forwarder.api.path import copy
from forwarder.dataplane.statistics import FlowStatistics, VwireStatistics
from forwarder.errors import InvalidRequest


class FakePort:
    """A port that carries nothing and can be killed, or break and work again at once, as a memif does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.fault = ""
        self.on_fault: Callable[[str], None] | None = None
        self.wire: object = None

    def die(self, why: str) -> None:
        self.dead, self.fault = True, why
        self.stumble(why)

    def stumble(self, why: str) -> None:
        if self.on_fault is not None:
            self.on_fault(why)


class FakeOpenPort:
    def __init__(self, world: "World", name: str, side: Side, connection: Connection) -> None:
        self.port: Any = FakePort(name)
        self.interface = name
        self.side = side
        self._world = world
        self._parameters = dict(connection.mechanism.parameters)

    @property
    def fault(self) -> str:
        return self.port.fault if self.port.dead else ""

    def serves(self, connection: Connection) -> bool:
        return dict(connection.mechanism.parameters) == self._parameters

    async def update(self, connection: Connection) -> None:
        await self._world.step(f"update {self.side.value} {self.interface} mtu {connection.context.MTU}")


class FakeMechanism:
    """Needs the parameter `name` from the other side; chooses `socketfile` itself when it is the server."""

    def __init__(self, world: "World", type_: str, cls: str = "LOCAL") -> None:
        self.type = type_
        self.cls = cls
        self._world = world

    def preference(self, connection: Connection) -> Mechanism:
        return Mechanism(cls=self.cls, type=self.type)

    def check(self, mechanism: Mechanism, side: Side) -> None:
        if not mechanism.parameters.get("name"):
            raise InvalidRequest(f"mechanism {self.type}: no name")

    @asynccontextmanager
    async def open(self, side: Side, connection: Connection) -> AsyncIterator[FakeOpenPort]:
        name = f"{self.type}/{connection.mechanism.parameters['name']}"
        await self._world.step(f"open {side.value} {name}")
        if side is Side.CLIENT and self.type == "MEMIF":
            connection.mechanism.parameters["socketfile"] = f"@{connection.id}"
        key = f"{side.value} {name} of {connection.id}"
        self._world.held.append(key)
        opened = FakeOpenPort(self._world, name, side, connection)
        self._world.ports.append(opened)
        try:
            yield opened
        finally:
            self._world.held.remove(key)
            self._world.ports.remove(opened)
            await self._world.step(f"close {side.value} {name}")


class FakeVwire:
    def __init__(self, name: str) -> None:
        self._name = name

    def statistics(self) -> VwireStatistics:
        flow = FlowStatistics(in_frames=7, in_bytes=700, out_frames=5, out_bytes=500, bursts=1, drops={"link_down": 2})
        back = FlowStatistics(in_frames=3, in_bytes=300, out_frames=3, out_bytes=300, bursts=1, drops={})
        return VwireStatistics(name=self._name, a_to_b=flow, b_to_a=back)


class World:
    """What happened, what is held, and where it fails."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.held: list[str] = []
        self.ports: list[FakeOpenPort] = []
        self.fail_at: dict[str, Exception] = {}
        """From the start of a step to what it raises, once."""
        self.mechanisms: Any = {name: FakeMechanism(self, name) for name in ("KERNEL", "MEMIF")}

    async def step(self, what: str) -> None:
        self.log.append(what)
        await asyncio.sleep(0)
        for start in list(self.fail_at):
            if what.startswith(start):
                raise self.fail_at.pop(start)

    @asynccontextmanager
    async def vwire(self, a: Any, b: Any, *, name: str = "") -> AsyncIterator[FakeVwire]:
        assert a.wire is None
        assert b.wire is None
        await self.step(f"join {a.name} {b.name}")
        a.wire = b.wire = self
        key = f"vwire {name}"
        self.held.append(key)
        try:
            yield FakeVwire(name)
        finally:
            a.wire = b.wire = None
            self.held.remove(key)
            await self.step(f"part {a.name} {b.name}")

    def taken(self) -> list[str]:
        """The log since the last call."""
        log, self.log = self.log, []
        return log

    def port(self, side: Side) -> FakeOpenPort:
        """The only open port of a side."""
        (found,) = self._of(side)
        return found

    def _of(self, side: Side) -> Iterator[FakeOpenPort]:
        return (each for each in self.ports if each.side is side)


def asked(type_: str, name: str = "nsm-1", **parameters: str) -> Mechanism:
    """A client's preference."""
    return Mechanism(cls="LOCAL", type=type_, parameters={"name": name, **parameters} if name else parameters)


def same(mechanism: Mechanism) -> Mechanism:
    """A copy."""
    return copy(mechanism)
