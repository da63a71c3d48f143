"""What control waits for when it changes a worker's plan."""

import asyncio
from typing import Any, cast

import pytest

from forwarder.dataplane.worker import Worker
from forwarder.dataplane.worker_control import WorkerControl


class Adopting:
    """A worker that adopts while it is asked whether it has: after `looks` answers of no."""

    faults = 0

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self.acknowledged = 0

    @property
    def adopted(self) -> int:
        self._looks -= 1
        return int(self._looks < 0)

    def acknowledge(self) -> int:
        self.acknowledged += 1
        return self.adopted


@pytest.mark.parametrize("looks", [0, 1])
async def test_what_a_change_frees_is_let_go_of_whenever_the_worker_adopts_it(looks: int) -> None:
    worker = Adopting(looks)
    control = WorkerControl(cast("Worker", cast("Any", worker)))
    asyncio.get_running_loop().call_soon(control._notified)  # the descriptor that tells becomes readable
    await control.settle(1)
    assert worker.acknowledged
