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

    async def add(self, wire: Vwire) -> None:
        """Has the worker run `wire`; returns when it does."""
        generation = self.worker.add(wire)
        self.wires[wire] = None
        await self.settle(generation)

    async def remove(self, wire: Vwire) -> None:
        """Returns when the worker touches nothing of `wire` any more; at once if it does not run it."""
        if self.wires.pop(wire, wire) is None and self.worker.running:  # a stopped one has let go of everything
            await self.settle(self.worker.remove(wire))

    async def settle(self, generation: int) -> None:
        """Returns when the plan of `generation` is in force and nothing older is in use.

        A caller that is cancelled meanwhile gets its cancellation afterwards: what it is about to
        free must not be in use.
        """
        cancelled: asyncio.CancelledError | None = None
        while self.worker.adopted < generation:
            adopted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((generation, adopted))
            try:
                await adopted
            except asyncio.CancelledError as error:
                cancelled = error
        self._notified()  # however early it was adopted, what has left is let go of
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


async def outlast(future: asyncio.Future[None]) -> None:
    """Waits for `future` even when cancelled meanwhile, which is raised afterwards; else raises what it did."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    future.result()
