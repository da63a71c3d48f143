"""The userspace datapath: two ports, and our workers between them.

It joins every mechanism to every other, counts every frame, and names the reason of each drop.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from forwarder.api.connection_pb2 import Connection
from forwarder.api.context import Side
from forwarder.dataplane import Port
from forwarder.dataplane.statistics import VwireStatistics
from forwarder.mechanisms import Broken, Mechanisms, OpenPort


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


class Userspace:
    """Joins the ports of any two mechanisms."""

    name = "userspace"
    keeps_client = False

    def __init__(self, mechanisms: Mechanisms, vwires: Vwires) -> None:
        self._mechanisms = mechanisms
        self._vwires = vwires

    def carries(self, client: str, endpoint: str) -> bool:
        """Says whether there are both mechanisms."""
        return client in self._mechanisms and endpoint in self._mechanisms

    def open(self, side: Side, connection: Connection) -> AbstractAsyncContextManager[OpenPort]:
        """Opens the mechanism's port."""
        return self._mechanisms[connection.mechanism.type].open(side, connection)

    @asynccontextmanager
    async def join(self, client: OpenPort, endpoint: OpenPort, *, name: str, broken: Broken) -> AsyncIterator[Vwire]:
        """Gives both ports to a worker. Raises DataplaneError when they do not fit together."""
        ends = (client, endpoint)
        before = [end.port.on_fault for end in ends]
        try:
            for end in ends:
                _listen(end, broken)
            async with self._vwires.vwire(client.port, endpoint.port, name=name) as vwire:
                yield vwire
        finally:
            for end, first in zip(ends, before, strict=True):
                end.port.on_fault = first


def _listen(end: OpenPort, broken: Broken) -> None:
    """Asks to be called when the port dies, after whoever asked before."""
    first = end.port.on_fault

    def died(fault: str) -> None:
        if first is not None:
            first(fault)
        broken(f"{end.interface}: {fault}")

    end.port.on_fault = died
