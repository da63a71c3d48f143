"""What watchers are told, in which order, and what the next hop's stream does to our view."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from forwarder.api.connection_pb2 import (
    DELETE,
    DOWN,
    INITIAL_STATE_TRANSFER,
    UP,
    UPDATE,
    Connection,
    ConnectionEvent,
    MonitorScopeSelector,
    PathSegment,
)
from forwarder.connection.monitor import Monitor, Watcher, adopt, concerns, follow, next_hop_selector
from tests.support.clock import settle
from tests.support.connections import connection, hops

ALL = MonitorScopeSelector()


def of(number: int, **fields: object) -> Connection:
    return connection(f"nsc:n{number}", f"fwd:f{number}", f"nse:e{number}", index=1, **fields)


def said(event: ConnectionEvent) -> tuple[int, list[str]]:
    return event.type, sorted(event.connections)


async def test_the_first_event_is_the_initial_transfer_even_if_empty() -> None:
    monitor = Monitor()
    stream = monitor.watch(ALL)
    assert said(await anext(stream)) == (INITIAL_STATE_TRANSFER, [])
    monitor.update(of(1))
    assert said(await anext(stream)) == (UPDATE, ["f1"])
    monitor.delete("f1")
    assert said(await anext(stream)) == (DELETE, ["f1"])
    await stream.aclose()
    assert monitor.watchers == 0


async def test_events_carry_our_own_view() -> None:
    monitor = Monitor()
    monitor.update(of(1, network_service="s"))
    event = await anext(monitor.watch(ALL))
    view = event.connections["f1"]
    assert (view.id, view.path.index, view.network_service) == ("f1", 1, "s")
    assert hops(view) == ["nsc:n1", "fwd:f1", "nse:e1"]


@pytest.mark.parametrize(
    "selector",
    [
        MonitorScopeSelector(path_segments=[PathSegment(name="nsc", id="n1")]),
        MonitorScopeSelector(path_segments=[PathSegment(id="f1")]),
        MonitorScopeSelector(network_services=["one", "three"]),
        MonitorScopeSelector(network_services=["one", "two"], path_segments=[PathSegment(id="n1")]),
    ],
    ids=["first segment", "our segment", "network service", "both"],
)
async def test_only_what_was_asked_for_is_told(selector: MonitorScopeSelector) -> None:
    monitor = Monitor()
    monitor.update(of(1, network_service="one"))
    monitor.update(of(2, network_service="two"))
    watcher = monitor.attach(selector)
    assert said(await watcher.next()) == (INITIAL_STATE_TRANSFER, ["f1"])
    monitor.update(of(2, network_service="two"))
    monitor.delete("f2")
    assert watcher.pending == 0
    monitor.update(of(1, network_service="one"))
    assert said(await watcher.next()) == (UPDATE, ["f1"])
    monitor.delete("f1")
    assert said(await watcher.next()) == (DELETE, ["f1"])


async def test_a_slow_reader_blocks_nobody_and_gets_the_last_state() -> None:
    monitor = Monitor()
    slow, quick = monitor.watch(ALL), monitor.watch(ALL)
    await anext(slow)
    await anext(quick)
    for round_ in range(1000):
        state = DOWN if round_ % 2 else UP
        monitor.update(of(1, state=state))
        monitor.update(of(2, state=state))
        event = await anext(quick)
        assert {each.state for each in event.connections.values()} == {state}
    (watcher,) = (each for each in monitor._watchers if each.pending)
    assert watcher.pending == 2, "room for connections, not for events"
    event = await anext(slow)
    assert said(event) == (UPDATE, ["f1", "f2"])
    assert {each.state for each in event.connections.values()} == {DOWN}


async def test_connections_that_came_and_went_unread_need_no_room() -> None:
    monitor = Monitor()
    stream = monitor.watch(ALL)
    await anext(stream)
    for number in range(1000):
        monitor.update(of(number))
        monitor.delete(f"f{number}")
    (watcher,) = monitor._watchers
    assert watcher.pending == 0


async def test_a_deletion_is_not_lost_when_the_id_comes_back() -> None:
    monitor = Monitor()
    stream = monitor.watch(ALL)
    await anext(stream)
    monitor.update(of(1))
    await anext(stream)
    monitor.delete("f1")
    monitor.update(of(1))
    assert said(await anext(stream)) == (DELETE, ["f1"])
    assert said(await anext(stream)) == (UPDATE, ["f1"])


async def test_down_is_told_once() -> None:
    monitor = Monitor()
    monitor.update(of(1))
    stream = monitor.watch(ALL)
    await anext(stream)
    monitor.set_down("f1")
    event = await anext(stream)
    assert event.connections["f1"].state == DOWN
    monitor.set_down("f1")
    monitor.set_down("unknown")
    (watcher,) = monitor._watchers
    assert watcher.pending == 0


async def test_a_later_change_of_the_message_does_not_reach_watchers() -> None:
    monitor = Monitor()
    mine = of(1)
    monitor.update(mine)
    mine.state = DOWN
    event = await anext(monitor.watch(ALL))
    assert event.connections["f1"].state == UP


async def test_a_reader_that_leaves_is_forgotten() -> None:
    monitor = Monitor()

    async def read() -> None:
        async for _ in monitor.watch(ALL):
            pass

    task = asyncio.create_task(read())
    await settle()
    assert monitor.watchers == 1
    task.cancel()
    await asyncio.wait([task])
    await settle()
    assert monitor.watchers == 0


def test_the_next_hop_is_asked_for_our_segment() -> None:
    assert next_hop_selector(of(1)) == MonitorScopeSelector(path_segments=[PathSegment(name="fwd", id="f1")])


@pytest.mark.parametrize(
    ("theirs", "is_ours"),
    [
        (connection("nsc:n1", "fwd:f1", "nse:e1", index=2), True),
        (connection("nsc:n1", "fwd:f1", "nse:e1", index=1), True),
        (connection("nsc:n1", "fwd:f1", "nse:e1", index=0), False),
        (connection("nsc:n1", "fwd:other", "nse:e1", index=2), False),
        (connection("fwd:f1", "nse:e1", index=1), False),
    ],
)
def test_only_events_of_our_connection_from_our_next_hop_count(theirs: Connection, is_ours: bool) -> None:
    assert concerns(theirs, of(1)) is is_ours


def next_hop_view(state: int = UP, mtu: int = 0) -> Connection:
    theirs = connection("nsc:n1", "fwd:f1", "nse:e1", index=2, state=state)
    theirs.path.path_segments[2].metrics["rx"] = str(mtu)
    theirs.context.MTU = mtu
    theirs.mechanism.type = "theirs"
    return theirs


async def test_changes_of_the_next_hop_become_changes_of_our_view() -> None:
    own = of(1)
    own.mechanism.type = "ours"
    own.context.MTU = 9000
    own.path.path_segments[2].metrics["rx"] = "9000"
    changes: list[Connection] = []

    async def events() -> AsyncIterator[ConnectionEvent]:
        yield ConnectionEvent(type=INITIAL_STATE_TRANSFER, connections={"e1": next_hop_view(mtu=9000)})
        yield ConnectionEvent(type=UPDATE, connections={"e1": next_hop_view(mtu=1400)})
        yield ConnectionEvent(type=UPDATE, connections={"e1": next_hop_view(DOWN, mtu=1400)})
        yield ConnectionEvent(type=DELETE, connections={"e1": next_hop_view(UP, mtu=1300)})

    async def changed(theirs: Connection) -> None:
        view = adopt(theirs, own)
        changes.append(view)
        own.CopyFrom(view)

    await follow(events(), lambda: own, changed)
    assert [(each.state, each.context.MTU) for each in changes] == [(UP, 1400), (DOWN, 1400), (DOWN, 1300)]
    for each in changes:
        assert (each.id, each.path.index, each.mechanism.type) == ("f1", 1, "ours")
        assert each.path.path_segments[2].metrics["rx"] == str(each.context.MTU)


async def test_following_ends_when_the_connection_is_gone() -> None:
    async def events() -> AsyncIterator[ConnectionEvent]:
        while True:
            yield ConnectionEvent(type=UPDATE, connections={"e1": next_hop_view()})

    async def changed(_view: Connection) -> None:
        raise AssertionError

    await follow(events(), lambda: None, changed)


async def test_a_next_hop_that_does_not_know_our_connection_any_more_makes_it_down() -> None:
    own = of(1)
    states: list[int] = []

    async def events() -> AsyncIterator[ConnectionEvent]:
        yield ConnectionEvent(type=INITIAL_STATE_TRANSFER)

    async def changed(theirs: Connection) -> None:
        states.append(adopt(theirs, own).state)

    await follow(events(), lambda: own, changed)
    assert states == [DOWN]


ONE = MonitorScopeSelector(path_segments=[PathSegment(name="nse", id="e1")])


async def test_who_named_a_segment_hears_of_the_end_of_a_connection_that_has_left_it() -> None:
    monitor = Monitor()
    monitor.update(of(1))
    watcher = monitor.attach(ONE)
    assert said(await watcher.next()) == (INITIAL_STATE_TRANSFER, ["f1"])
    monitor.update(connection("nsc:n1", "fwd:f1", "nse:e9", index=1))
    assert watcher.pending == 0
    monitor.delete("f1")
    assert said(await watcher.next()) == (DELETE, ["f1"])


async def test_who_named_a_segment_hears_of_a_connection_that_comes_to_it() -> None:
    monitor = Monitor()
    monitor.update(connection("nsc:n1", "fwd:f1", "nse:e9", index=1))
    watcher = monitor.attach(ONE)
    assert said(await watcher.next()) == (INITIAL_STATE_TRANSFER, [])
    monitor.update(of(1))
    assert said(await watcher.next()) == (UPDATE, ["f1"])


async def test_nobody_is_asked_about_connections_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor()
    for number in range(20):
        monitor.update(of(number))
    watchers = [monitor.attach(MonitorScopeSelector(path_segments=[PathSegment(id=f"f{n}")])) for n in range(20)]
    asked: list[Watcher] = []
    tell = Watcher.update

    def update(watcher: Watcher, view: Connection) -> None:
        asked.append(watcher)
        tell(watcher, view)

    monkeypatch.setattr(Watcher, "update", update)
    monitor.update(of(3))
    assert asked == [watchers[3]]


async def test_nothing_is_kept_of_who_has_left_and_of_what_is_gone() -> None:
    monitor = Monitor()
    watchers = [monitor.attach(ONE), monitor.attach(ALL)]
    monitor.update(of(1))
    watchers.append(monitor.attach(ONE))
    for watcher in watchers:
        monitor.detach(watcher)
    monitor.update(of(1))
    monitor.delete("f1")
    assert monitor.watchers == 0
    kept = [monitor._known, monitor._by_segment, monitor._watchers, monitor._watching, monitor._concerned]
    assert not any(kept)
