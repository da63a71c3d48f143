"""A Request goes from candidate to candidate; one that fails leaves nothing, there or here."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from forwarder.api.connection_pb2 import UP, Connection
from forwarder.errors import DataplaneError, EndpointNotFound, InvalidRequest, NextHopError
from forwarder.service import Target
from tests.support.cancellation import cancelled_at_wait
from tests.support.clock import settle
from tests.support.fake_mechanism import asked
from tests.support.fake_next_hop import FakeNextHop
from tests.unit.service.test_request import Scene


class Found:
    """Finds the same candidates every time, and counts who keeps which."""

    def __init__(self) -> None:
        self.urls = ["unix:///a", "unix:///b", "unix:///c"]
        self.kept: list[str] = []
        self.tried: list[str] = []
        self.missing = False

    @asynccontextmanager
    async def find(self, connection: Connection) -> AsyncIterator[Iterable[Target]]:
        if self.missing:
            raise EndpointNotFound("network service endpoint 'a' is not registered")
        yield self._each()

    def _each(self) -> Iterable[Target]:
        for url in self.urls:
            self.tried.append(url)
            yield Target(url=url, endpoint_name=url[-1], payload="ETHERNET", keep=lambda url=url: self._keep(url))  # type: ignore[misc]

    def _keep(self, url: str) -> Callable[[], None]:
        self.kept.append(url)
        return lambda: self.kept.remove(url)


class Choices(Scene):
    """A forwarder with several endpoints to choose from, each a next hop of its own."""

    def __init__(self) -> None:
        self.found = Found()
        self.hops = {url: FakeNextHop() for url in self.found.urls}
        super().__init__(next_hops=self.found, dial=lambda url: self.hops[url].dial(url))

    def at(self, name: str) -> FakeNextHop:
        return self.hops[f"unix:///{name}"]

    def none_left(self) -> None:
        self.nothing_left()
        assert self.found.kept == []
        assert all(hop.connections == {} for hop in self.hops.values())


@pytest_asyncio.fixture
async def choices() -> AsyncIterator[Choices]:
    made = Choices()
    async with made.forwarder:
        yield made
    await settle()
    made.none_left()


async def test_the_first_that_agrees_serves_and_its_url_is_kept(choices: Choices) -> None:
    await choices.request(choices.first())
    assert choices.found.tried == ["unix:///a"]
    assert choices.found.kept == ["unix:///a"]
    assert choices.at("a").requests[0].connection.network_service_endpoint_name == "a"


@pytest.mark.parametrize("status", ["UNAVAILABLE", "PERMISSION_DENIED", "UNKNOWN", "RESOURCE_EXHAUSTED"])
async def test_one_that_refuses_is_passed_over_and_not_closed(choices: Choices, status: str) -> None:
    choices.at("a").fail = NextHopError("no", status=status)
    await choices.request(choices.first())
    assert choices.found.kept == ["unix:///b"]
    assert choices.at("a").closes == []
    assert choices.at("b").requests[0].connection.network_service_endpoint_name == "b"


async def test_one_that_may_have_agreed_is_closed_before_the_next_is_asked(choices: Choices) -> None:
    choices.at("a").fail = NextHopError("too late", status="DEADLINE_EXCEEDED")
    choices.at("b").fail_dial = NextHopError("not there", status="UNAVAILABLE")
    await choices.request(choices.first())
    assert len(choices.at("a").closes) == 1
    assert choices.found.kept == ["unix:///c"]


async def test_an_unusable_answer_is_closed_and_the_next_is_asked(choices: Choices) -> None:
    choices.at("a").change = lambda answer: answer.ClearField("mechanism")
    await choices.request(choices.first())
    assert len(choices.at("a").closes) == 1
    assert choices.found.kept == ["unix:///b"]


async def test_one_whose_end_cannot_be_opened_is_left_for_the_next(choices: Choices) -> None:
    choices.world.fail_at["open endpoint"] = DataplaneError("no such namespace")
    await choices.request(choices.first())
    assert len(choices.at("a").closes) == 1
    assert choices.found.kept == ["unix:///b"]
    assert len(choices.world.held) == 3


async def test_what_is_the_caller_s_mistake_is_not_tried_elsewhere(choices: Choices) -> None:
    choices.world.fail_at["open client KERNEL"] = InvalidRequest("no such namespace")
    with pytest.raises(InvalidRequest):
        await choices.request(choices.first())
    assert choices.found.tried == ["unix:///a"]
    choices.none_left()


async def test_when_all_fail_each_reason_is_told_with_the_last_one_s_status(choices: Choices) -> None:
    for name, status in (("a", "UNAVAILABLE"), ("b", "PERMISSION_DENIED"), ("c", "NOT_FOUND")):
        choices.at(name).fail = NextHopError(f"{name} says no", status=status)
    with pytest.raises(NextHopError) as caught:
        await choices.request(choices.first())
    assert caught.value.status == "NOT_FOUND"
    assert str(caught.value) == (
        "all 3 endpoints that were tried for 'web' failed: a: a says no; b: b says no; c: c says no"
    )
    choices.none_left()


async def test_a_change_that_fails_at_another_endpoint_leaves_the_old_one_as_it_was(choices: Choices) -> None:
    answer = await choices.request(choices.first())
    choices.found.urls = ["unix:///b"]
    choices.at("b").interface = "nse-2"
    choices.world.fail_at["open endpoint KERNEL/nse-2"] = DataplaneError("broken")
    with pytest.raises(DataplaneError):
        await choices.request(answer)
    assert choices.found.kept == ["unix:///a"]
    assert (choices.at("a").closes, len(choices.at("b").closes)) == ([], 1)
    await choices.close(answer)
    choices.none_left()


async def test_a_refresh_whose_endpoint_is_not_known_any_more_is_told_as_down(choices: Choices) -> None:
    answer = await choices.request(choices.first())
    choices.found.missing = True
    with pytest.raises(EndpointNotFound):
        await choices.request(answer)
    assert choices.forwarder.statistics().connections[0].state == "DOWN"
    assert len(choices.world.held) == 3, "what carries frames stays"
    choices.found.missing = False
    await choices.request(answer)
    assert choices.forwarder.statistics().connections[0].state == "UP"


async def test_the_listener_goes_with_a_connection_that_moves(choices: Choices) -> None:
    answer = await choices.request(choices.first())
    await settle()
    assert choices.at("a").monitor_hub.watchers == 1
    choices.found.urls = ["unix:///b"]
    await choices.request(answer)
    await settle()
    assert (choices.at("a").monitor_hub.watchers, choices.at("b").monitor_hub.watchers) == (0, 1)
    events = await choices.events()
    (theirs,) = choices.at("b").connections.values()
    theirs.context.MTU = 1300
    choices.at("b").monitor_hub.update(theirs)
    _, view = await events.next()
    assert (view.context.MTU, view.state) == (1300, UP)
    await events.aclose()
    assert choices.forwarder.statistics().went_down == 0, "leaving the former one is no fault"


async def test_cancelling_at_every_await_leaves_nothing_at_any_candidate(choices: Choices) -> None:
    choices.at("a").fail = NextHopError("too late", status="DEADLINE_EXCEEDED")
    at = 0
    while True:
        at += 1
        cancelled = await cancelled_at_wait(lambda: choices.request(choices.first(asked("MEMIF"))), at)
        await settle()
        if not cancelled:
            await choices.close(choices.first().connection)
            break
        choices.none_left()
        for hop in choices.hops.values():
            hop.by_caller.clear()
    assert at >= 10, "every step waits for something"
