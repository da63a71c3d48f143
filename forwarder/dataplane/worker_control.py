"""The event loop's side of one worker: waits until changes of its plan are in force, hears of faults."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from forwarder.dataplane.vwire import Vwire
from forwarder.dataplane.worker import Worker


class WorkerControl:
    """Runs a worker, and adds and removes its vWires.

    Changes that are asked for while one is being adopted share the next adoption.
    """

    def __init__(self, worker: Worker) -> None:
        """Does nothing yet; see `running`."""
        self.worker = worker
        self.wires: dict[Vwire, None] = {}
        """Those in the plan, in the order they came."""
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._faults_seen = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the worker's thread for as long as the context lasts."""
        loop = asyncio.get_running_loop()
        self.worker.start()
        loop.add_reader(self.worker.notify_fd, self._notified)
        try:
            yield
        finally:
            loop.remove_reader(self.worker.notify_fd)
            self.worker.stop()
            self._adopted(self.worker.adopted)

    @asynccontextmanager
    async def run(self, wire: Vwire) -> AsyncIterator[None]:
        """Runs `wire` for as long as the context lasts.

        On leaving, the worker has let go of it before this returns, so its ports can be closed next.
        """
        generation = self.worker.add(wire)
        self.wires[wire] = None
        try:
            await self.settle(generation)
            yield
        finally:
            del self.wires[wire]
            if self.worker.running:  # else it has let go of everything
                await self.settle(self.worker.remove(wire))

    async def settle(self, generation: int) -> None:
        """Returns when the plan of `generation` is in force and nothing older is in use.

        A caller that is cancelled meanwhile gets its cancellation afterwards: what it is about to
        free must not be in use.
        """
        if self.worker.adopted >= generation:
            self._notified()
            return
        adopted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((generation, adopted))
        cancelled: asyncio.CancelledError | None = None
        while not adopted.done():
            try:
                await asyncio.wait([adopted])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _notified(self) -> None:
        """Hears what the worker has to tell."""
        self._adopted(self.worker.acknowledge())
        faults = self.worker.faults
        if faults != self._faults_seen:
            self._faults_seen = faults
            for wire in list(self.wires):
                wire.a.tell_fault()
                wire.b.tell_fault()

    def _adopted(self, generation: int) -> None:
        still_waiting = []
        for wanted, adopted in self._waiting:
            if wanted > generation:
                still_waiting.append((wanted, adopted))
            elif not adopted.done():
                adopted.set_result(None)
        self._waiting = still_waiting
