"""An event that keeps nothing while nobody waits."""

import asyncio

import pytest

from forwarder.dataplane.lean_event import LeanEvent
from tests.support.clock import settle


async def test_all_who_wait_go_on_when_it_is_set() -> None:
    event = LeanEvent()
    waiting = [asyncio.ensure_future(event.wait()) for _ in range(3)]
    await settle()
    assert not any(each.done() for each in waiting)
    event.set()
    event.clear()
    await asyncio.gather(*waiting)
    assert not event.is_set()


async def test_nobody_waits_for_what_is_set() -> None:
    event = LeanEvent()
    event.set()
    event.set()
    assert event.is_set()
    await event.wait()


async def test_one_who_is_cancelled_does_not_take_the_others_along() -> None:
    event = LeanEvent()
    gone, stays = (asyncio.ensure_future(event.wait()) for _ in range(2))
    await settle()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    event.set()
    await stays


async def test_it_can_be_waited_for_again_after_everyone_was_cancelled() -> None:
    event = LeanEvent()
    gone = asyncio.ensure_future(event.wait())
    await settle()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    again = asyncio.ensure_future(event.wait())
    await settle()
    event.set()
    await again
