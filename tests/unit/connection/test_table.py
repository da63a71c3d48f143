"""The guarantees of the connection table: turns, order, and clean-up that is not cut short."""

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from forwarder.api.connection_pb2 import DOWN, RESELECT_REQUESTED, UP, Connection
from forwarder.connection import current
from forwarder.connection import table as tables
from forwarder.connection.table import ConnectionTable, Entry
from forwarder.errors import DataplaneError, InvalidRequest, NextHopError
from tests.support.clock import settle


class Recorder:
    """A program whose Request holds one thing, and may wait or fail."""

    def __init__(self) -> None:
        self.table: ConnectionTable[str] = ConnectionTable()
        self.events: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fail: Exception | None = None

    async def request(self, connection_id: str, label: str = "", **fields: object) -> Connection:
        asked = Connection(id=connection_id, network_service=label, **fields)  # type: ignore[arg-type]

        async def work(entry: Entry[str]) -> Connection:
            self.events.append(f"request {label}")
            if not entry.established:
                entry.stack.callback(self.events.append, f"undo {label}")
            await self.go.wait()
            if self.fail is not None:
                raise self.fail
            return Connection(id=connection_id, network_service=label)

        return await self.table.request(asked, work)

    async def close(self, connection_id: str) -> None:
        await self.table.close(connection_id, lambda last: self.events.append(f"closed {last.network_service}"))


async def test_a_request_is_up_and_close_undoes_it() -> None:
    program = Recorder()
    answer = await program.request("1", "a", state=DOWN)
    assert answer.state == UP
    assert len(program.table) == 1
    await program.close("1")
    assert program.events == ["request a", "undo a", "closed a"]
    assert len(program.table) == 0


async def test_an_empty_id_is_refused() -> None:
    program = Recorder()
    with pytest.raises(InvalidRequest, match="no id"):
        await program.request("")
    with pytest.raises(InvalidRequest, match="no id"):
        await program.close("")


async def test_closing_an_unknown_id_succeeds_twice() -> None:
    program = Recorder()
    await program.close("nobody")
    await program.close("nobody")
    assert program.events == []
    assert program.table._entries == {}


async def test_a_first_failure_undoes_and_forgets() -> None:
    program = Recorder()
    program.fail = NextHopError("no")
    with pytest.raises(NextHopError):
        await program.request("1", "a")
    assert program.events == ["request a", "undo a"]
    assert program.table._entries == {}
    program.fail = None
    await program.request("1", "b")
    assert program.table.get("1") is not None


async def test_a_failed_refresh_keeps_the_connection_as_it_was() -> None:
    program = Recorder()
    await program.request("1", "a")
    program.fail = NextHopError("no")
    with pytest.raises(NextHopError):
        await program.request("1", "b")
    entry = program.table.get("1")
    assert entry is not None
    assert entry.connection is not None
    assert entry.connection.network_service == "a"
    await program.close("1")
    assert program.events == ["request a", "request b", "undo a", "closed a"], "Close uses what succeeded last"


async def test_reselect_closes_first_and_then_requests_anew() -> None:
    program = Recorder()
    await program.request("1", "a")
    await program.request("1", "b", state=RESELECT_REQUESTED)
    assert program.events == ["request a", "undo a", "request b"]
    await program.request("2", "c", state=RESELECT_REQUESTED)
    assert program.events[3:] == ["request c"], "nothing to close for a new connection"


async def test_a_failed_reselect_leaves_nothing() -> None:
    program = Recorder()
    await program.request("1", "a")
    program.fail = NextHopError("no")
    with pytest.raises(NextHopError):
        await program.request("1", "b", state=RESELECT_REQUESTED)
    assert program.events == ["request a", "undo a", "request b", "undo b"]
    assert program.table._entries == {}


async def test_close_during_a_request_waits_its_turn() -> None:
    program = Recorder()
    program.go.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(program.request("1", "a"))
        await settle()
        closing = group.create_task(program.close("1"))
        await settle()
        assert not closing.done()
        program.go.set()
    assert program.events == ["request a", "undo a", "closed a"]
    assert program.table._entries == {}


async def test_different_ids_do_not_wait_for_each_other() -> None:
    program = Recorder()
    program.go.clear()
    waiting = asyncio.create_task(program.request("1", "a"))
    await settle()
    program.go.set()
    await program.request("2", "b")
    await waiting
    assert program.events == ["request a", "request b"]


async def test_a_cancelled_first_request_leaves_nothing_and_the_next_one_works() -> None:
    program = Recorder()
    program.go.clear()
    task = asyncio.create_task(program.request("1", "a"))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert program.events == ["request a", "undo a"]
    assert program.table._entries == {}
    program.go.set()
    await program.request("1", "b")


async def test_a_cancelled_waiter_does_not_disturb_the_others() -> None:
    program = Recorder()
    program.go.clear()
    first = asyncio.create_task(program.request("1", "a"))
    await settle()
    second = asyncio.create_task(program.request("1", "b"))
    third = asyncio.create_task(program.request("1", "c"))
    await settle()
    second.cancel()
    await settle()
    program.go.set()
    await first
    await third
    assert program.events == ["request a", "request c"]


async def test_undoing_is_finished_although_the_caller_is_cancelled_again() -> None:
    table: ConnectionTable[str] = ConnectionTable()
    undoing, undone = asyncio.Event(), asyncio.Event()
    go = asyncio.Event()

    async def undo() -> None:
        undoing.set()
        await go.wait()
        undone.set()

    async def work(entry: Entry[str]) -> Connection:
        entry.stack.push_async_callback(undo)
        raise NextHopError("no")

    task = asyncio.create_task(table.request(Connection(id="1"), work))
    await undoing.wait()
    task.cancel()
    await settle()
    task.cancel()
    await settle()
    assert not task.done(), "the turn is kept until all is undone"
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone.is_set()


async def test_undoing_has_the_requests_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LEAST_SECONDS", 0.0)
    table: ConnectionTable[str] = ConnectionTable()
    events: list[str] = []

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            events.append("gave up")

    async def work(entry: Entry[str]) -> Connection:
        entry.stack.callback(events.append, "the rest")
        entry.stack.push_async_callback(stuck)
        return Connection(id="1")

    await table.request(Connection(id="1"), work, seconds=0.01)
    with pytest.raises(TimeoutError):
        await table.close("1")
    assert events == ["gave up", "the rest"], "what is stuck does not keep the rest from being undone"
    assert table._entries == {}


async def test_a_request_in_a_hurry_does_not_hurry_its_undoing() -> None:
    table: ConnectionTable[str] = ConnectionTable()

    async def work(entry: Entry[str]) -> Connection:
        assert entry.seconds == tables.LEAST_SECONDS
        return Connection(id="1")

    await table.request(Connection(id="1"), work, seconds=0.001)
    await table.close("1")


async def test_close_undoes_the_rest_when_a_part_fails_and_says_so() -> None:
    table: ConnectionTable[str] = ConnectionTable()
    events: list[str] = []

    def broken() -> None:
        raise DataplaneError("the port is gone")

    async def work(entry: Entry[str]) -> Connection:
        entry.stack.callback(events.append, "first")
        entry.stack.callback(broken)
        entry.stack.callback(events.append, "last")
        return Connection(id="1")

    await table.request(Connection(id="1"), work)
    with pytest.raises(DataplaneError):
        await table.close("1", lambda _last: events.append("closed"))
    assert events == ["last", "first", "closed"]
    await table.close("1")
    assert table._entries == {}


async def test_the_running_connection_is_known_to_the_log() -> None:
    program = Recorder()
    seen: list[str] = []

    async def work(_entry: Entry[str]) -> Connection:
        seen.append(current.connection_id.get())
        return Connection(id="1")

    await program.table.request(Connection(id="1"), work)
    assert seen == ["1"]
    assert current.connection_id.get() == ""


async def test_a_caller_that_lost_our_answer_finds_its_connection_again() -> None:
    table: ConnectionTable[str] = ConnectionTable()

    async def work(entry: Entry[str]) -> Connection:
        await asyncio.sleep(0)
        return Connection(id=entry.id)

    async def request() -> str:
        asked = Connection(id=table.id_for("caller"))
        return (await table.request(asked, work, caller_id="caller")).id

    first, second = await asyncio.gather(request(), request())
    assert first == second == await request()
    assert table.id_for("somebody else") != first
    await table.close(first)
    assert table.id_for("caller") != first
    assert table._by_caller == {}


async def test_1000_parallel_calls_over_20_ids_never_overlap_and_keep_their_order() -> None:
    table: ConnectionTable[str] = ConnectionTable()
    chance = random.Random(7)
    inside: Counter[str] = Counter()
    held: Counter[str] = Counter()
    order: dict[str, list[int]] = {}
    asked: dict[str, list[int]] = {}

    async def call(number: int) -> None:
        connection_id = str(number % 20)
        kind = chance.choice(["request", "request", "failing", "cancelled", "close"])
        asked.setdefault(connection_id, []).append(number)

        async def work(entry: Entry[str]) -> Connection:
            inside[connection_id] += 1
            assert inside[connection_id] == 1, "two events of one connection at a time"
            order.setdefault(connection_id, []).append(number)
            try:
                if not entry.established:
                    held[connection_id] += 1
                    entry.stack.callback(held.subtract, [connection_id])
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                if kind == "failing":
                    raise NextHopError("no")
                if kind == "cancelled":
                    raise asyncio.CancelledError
                return Connection(id=connection_id)
            finally:
                inside[connection_id] -= 1

        if kind == "close":
            order.setdefault(connection_id, [])
            await table.close(connection_id)
            asked[connection_id].remove(number)
            return
        with contextlib.suppress(NextHopError, asyncio.CancelledError):
            await table.request(Connection(id=connection_id), work)

    await asyncio.gather(*(call(number) for number in range(1000)))
    assert order == asked, "first come, first served"
    for connection_id, count in held.items():
        assert count == (table.get(connection_id) is not None), "each connection holds exactly its own"
    await table.close_all()
    assert not any(held.values())
    assert table._entries == {}
