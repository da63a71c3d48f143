"""One stream for each next hop tells of all connections that go there."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from forwarder.api.connection_pb2 import Connection, State
from forwarder.api.path import origin_id
from forwarder.errors import NextHopError
from tests.support.clock import settle
from tests.support.fake_mechanism import asked
from tests.unit.service.test_request import Scene


@pytest_asyncio.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    async with made.forwarder:
        yield made
    await settle()
    made.nothing_left()
    assert len(made.forwarder._watches) == 0


async def connected(scene: Scene, count: int) -> list[Connection]:
    answers = []
    for number in range(count):
        request = scene.first(asked("KERNEL", f"nsm-{number}"), id=f"nsc-{number}")
        request.connection.path.path_segments[0].id = f"nsc-{number}"
        answers.append(await scene.request(request))
    await settle()
    return answers


def of(scene: Scene, client: str) -> Connection:
    """A client's connection as the next hop has it."""
    return next(each for each in scene.hop.connections.values() if origin_id(each) == client)


def states(scene: Scene) -> list[str]:
    return [each.state for each in scene.forwarder.statistics().connections]


async def test_many_connections_to_one_next_hop_are_watched_by_one_stream(scene: Scene) -> None:
    answers = await connected(scene, 20)
    assert scene.hop.monitor_hub.watchers == 1
    for each in answers[1:]:
        await scene.close(each)
    await settle()
    assert scene.hop.monitor_hub.watchers == 1
    await scene.close(answers[0])
    await settle()
    assert scene.hop.monitor_hub.watchers == 0, "the last one ends it"


async def test_news_of_one_connection_change_that_one(scene: Scene) -> None:
    await connected(scene, 3)
    scene.hop.monitor_hub.set_down(of(scene, "nsc-1").id)
    await settle()
    assert states(scene) == ["UP", "DOWN", "UP"]


async def test_a_next_hop_that_forgets_one_connection_turns_that_one_down(scene: Scene) -> None:
    await connected(scene, 3)
    scene.hop.monitor_hub.delete(of(scene, "nsc-2").id)
    await settle()
    assert states(scene) == ["UP", "UP", "DOWN"]


async def test_a_stream_that_ends_turns_all_down_and_the_next_request_opens_another(scene: Scene) -> None:
    answers = await connected(scene, 3)
    scene.hop.broken.set()
    await settle()
    assert states(scene) == ["DOWN"] * 3
    scene.hop.broken.clear()
    await scene.request(answers[0])
    await settle()
    assert states(scene) == ["UP", "DOWN", "DOWN"]
    assert scene.hop.monitor_hub.watchers == 1


async def test_a_next_hop_that_has_lost_a_connection_when_the_stream_begins_turns_it_down(scene: Scene) -> None:
    scene.hop.fail_monitor = NextHopError("reset", status="UNAVAILABLE")
    answers = await connected(scene, 2)
    assert states(scene) == ["DOWN", "DOWN"]
    scene.hop.fail_monitor = None
    scene.hop.monitor_hub.delete(of(scene, "nsc-0").id)
    scene.hop.remembers = False
    await scene.request(answers[0])
    await settle()
    assert states(scene) == ["DOWN", "DOWN"]


@pytest.mark.parametrize("status", ["UNIMPLEMENTED", "PERMISSION_DENIED"])
async def test_a_next_hop_that_tells_nothing_is_no_fault(scene: Scene, status: str) -> None:
    scene.hop.fail_monitor = NextHopError("not for you", status=status)
    await connected(scene, 2)
    assert {State.Name(0)} == set(states(scene))
