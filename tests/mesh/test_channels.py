"""Channels that callers share: one per server, never a broken one, closed when nobody needs it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forwarder.api.connection_pb2 import Connection
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.errors import NextHopError
from forwarder.rpc import Call, Channel, Channels, NextHop, network_service, serve
from tests.support.domain import until


class Echo:
    """Answers with what it was asked."""

    async def request(self, request: NetworkServiceRequest, call: Call) -> Connection:
        return request.connection

    async def close(self, connection: Connection, call: Call) -> None:
        """Nothing to close."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/nsm.sock"


@asynccontextmanager
async def served(url: str) -> AsyncIterator[None]:
    async with serve([network_service(Echo())], [url]):
        yield


async def answers(channel: Channel) -> bool:
    asked = NetworkServiceRequest(connection=Connection(id="nsc-0"))
    return (await NextHop(channel).request(asked, timeout_s=10)).id == "nsc-0"


async def test_all_who_call_one_server_share_a_connection(url: str) -> None:
    async with served(url), Channels(timeout_s=10) as channels:

        async def one() -> Channel:
            async with channels.lend(url) as channel:
                assert await answers(channel)
                return channel

        lent = await asyncio.gather(*(one() for _ in range(20)))
        assert len(set(map(id, lent))) == 1
        assert await one() is lent[0]
        assert len(channels) == 1


async def test_a_channel_that_lost_its_server_is_not_lent_again(url: str) -> None:
    async with Channels(timeout_s=10) as channels:
        async with served(url), channels.lend(url) as first:
            assert await answers(first)
        await until(lambda: not first.connected)
        async with served(url), channels.lend(url) as second:
            assert second is not first
            assert await answers(second)


async def test_who_still_uses_a_broken_channel_keeps_it_until_done(url: str) -> None:
    async with Channels(timeout_s=10) as channels:
        lent = channels.lend(url)
        async with served(url):
            first = await lent.__aenter__()
        await until(lambda: not first.connected)
        async with served(url), channels.lend(url) as second:
            assert second is not first
            assert len(channels) == 1
            await lent.__aexit__(None, None, None)
            assert await answers(second)


async def test_all_who_wait_hear_why_there_is_no_connection(url: str) -> None:
    async with Channels(timeout_s=0.1) as channels:

        async def one() -> None:
            async with channels.lend(url):
                pass

        outcomes = await asyncio.gather(*(one() for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in outcomes] == [NextHopError] * 5
        assert len({str(each) for each in outcomes}) == 1
        assert len(channels) == 0
        async with served(url), channels.lend(url) as channel:
            assert await answers(channel)


async def test_one_who_gives_up_does_not_end_the_attempt_of_the_others(url: str) -> None:
    async with Channels(timeout_s=60) as channels:
        gone = asyncio.ensure_future(channels.lend(url).__aenter__())
        lent = channels.lend(url)
        stays = asyncio.ensure_future(lent.__aenter__())
        await asyncio.sleep(0.05)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        async with served(url):
            assert await answers(await stays)
            await lent.__aexit__(None, None, None)


async def test_an_attempt_ends_when_nobody_waits_for_it(url: str) -> None:
    async with Channels(timeout_s=60) as channels:
        for _ in range(3):
            waiting = asyncio.ensure_future(channels.lend(url).__aenter__())
            await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with served(url), channels.lend(url) as channel:
            assert await answers(channel)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("dial")]


async def test_a_channel_that_nobody_uses_is_closed_and_one_in_use_is_not(url: str) -> None:
    async with served(url), Channels(timeout_s=10, idle_s=0.02) as channels:
        async with channels.lend(url) as channel:
            await asyncio.sleep(0.1)
            assert await answers(channel)
        await until(lambda: len(channels) == 0)
        async with channels.lend(url) as another:
            assert another is not channel
            assert await answers(another)
