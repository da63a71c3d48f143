"""The data plane as the rest of the program sees it: ports, vWires between them, and counts."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from forwarder.dataplane.file_watch import FileWatch
from forwarder.dataplane.kernel_port import KernelPorts
from forwarder.dataplane.memif_listener import MemifListeners
from forwarder.dataplane.memif_port import ConnectedMemifPort, open_memif_port
from forwarder.dataplane.placement import Placement
from forwarder.dataplane.port import Port
from forwarder.dataplane.spec import KernelPortSpec, MemifPortSpec
from forwarder.dataplane.statistics import DataplaneStatistics
from forwarder.dataplane.vwire import Vwire
from forwarder.dataplane.worker import Worker
from forwarder.dataplane.worker_control import WorkerControl
from forwarder.errors import DataplaneError


class Dataplane:
    """Owns the workers, and opens ports and vWires. An async context manager; enter it once.

    Ports and vWires are async context managers too: leave them in the opposite order, vWires
    before their ports, and everything before the data plane.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        cpus: Sequence[int] = (),
        poll_window_us: int = 50,
        stall_limit_ms: int = 20,
        qdisc_bypass: bool = True,
        rebalance_interval_s: float = 1.0,
    ) -> None:
        """Does nothing yet.

        `cpus`: worker i is pinned to the i-th, round and round; empty for no pinning.
        `poll_window_us`: how long a vWire is polled after its last frame, before it sleeps.
        `stall_limit_ms`: how long frames wait where they came from for room on the other side.
        `qdisc_bypass`: frames are sent around the queue discipline of kernel links.
        `rebalance_interval_s`: how often the workers' loads are compared, and at most one vWire is moved
        from a worker that is much busier than another; with 0 each stays with the worker it was given to.
        """
        if workers < 1:
            raise DataplaneError(f"a data plane with {workers} workers")
        self._controls = [
            WorkerControl(
                Worker(
                    name=f"vwire-worker-{k}",
                    cpu=cpus[k % len(cpus)] if cpus else None,
                    poll_window_us=poll_window_us,
                    stall_limit_ms=stall_limit_ms,
                )
            )
            for k in range(workers)
        ]
        self._placement = Placement(self._controls)
        self._rebalance_interval_s = rebalance_interval_s if workers > 1 else 0.0
        self._kernel_ports = KernelPorts(qdisc_bypass=qdisc_bypass, turns=self._turns)
        self._listeners = MemifListeners()
        self._files = FileWatch()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for control in self._controls:
                await stack.enter_async_context(control.running())
            if self._rebalance_interval_s > 0:
                await stack.enter_async_context(self._placement.rebalancing(self._rebalance_interval_s))
            await stack.enter_async_context(self._kernel_ports.running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def kernel_port(self, spec: KernelPortSpec) -> AbstractAsyncContextManager[Port]:
        """Opens a port over a kernel link, which must be there. See `KernelPorts.open`."""
        return self._kernel_ports.open(spec)

    def memif_port(self, spec: MemifPortSpec) -> AbstractAsyncContextManager[ConnectedMemifPort]:
        """Opens a port over memif, without waiting for its peer. See `open_memif_port`."""
        return open_memif_port(spec, self._listeners, self._settle, files=self._files)

    @asynccontextmanager
    async def vwire(self, a: Port, b: Port, *, name: str = "") -> AsyncIterator[Vwire]:
        """Joins two open ports for as long as the context lasts.

        Frames flow when the context has been entered. On leaving, the wire is out of every plan
        before this returns, so the ports may be closed next. Raises DataplaneError if a port is
        wired already, or if one carries Ethernet frames and the other IP packets.
        """
        if a is b:
            raise DataplaneError(f"vWire {name}: both ends are {a!r}")
        if a.ip_mode != b.ip_mode:
            raise DataplaneError(f"vWire {name}: one of {a!r} and {b!r} carries IP packets, the other Ethernet frames")
        wire = Vwire(a, b, name)
        async with self._placement.run(wire):
            yield wire

    def statistics(self) -> DataplaneStatistics:
        """Returns a snapshot of everything that is counted."""
        return DataplaneStatistics(
            vwires=tuple(wire.statistics() for wire in self._placement.wires),
            workers=tuple(control.worker.statistics() for control in self._controls),
            moves=self._placement.moved,
        )

    def _turns(self) -> int:
        return sum(control.worker.statistics().turns for control in self._controls)

    async def _settle(self, port: Port, generation: int) -> None:
        """Waits until the worker that runs `port` has adopted `generation` of its plan."""
        control = self._placement.control_of(port.wire)
        if control is not None:
            await control.settle(generation)
