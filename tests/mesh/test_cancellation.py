"""A Request that is cancelled anywhere leaves nothing, with real interfaces, and the next one works."""

import asyncio
from contextlib import suppress

import pytest

from forwarder.errors import NextHopError
from forwarder.rpc import Call
from tests.support.cancellation import cancelled_at_wait
from tests.support.domain import domain, kernel, links, memif, pod, until


@pytest.mark.parametrize(("make", "endpoint"), [(kernel, "KERNEL"), (memif, "MEMIF")], ids=["KERNEL", "MEMIF"])
@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
async def test_cancelled_at_every_await_nothing_is_left(tmp_path, datapath, make, endpoint):
    async with domain(tmp_path, endpoint=endpoint, datapath=datapath) as mesh:
        with pod() as netns:
            number = 0
            cancelled = True
            while cancelled:
                number += 1
                request = mesh.request(make(netns))
                call = Call.internal(timeout_s=10)
                cancelled = await cancelled_at_wait(lambda: mesh.forwarder.request(request, call), number)  # noqa: B023
                if cancelled:
                    await until(lambda: not mesh.forwarder._table._entries and len(mesh.endpoint) == 0)
                    assert links(netns) == links(mesh.endpoint_netns) == []
            assert number >= 3
            assert len(mesh.endpoint) == 1
            await mesh.forwarder.close(request.connection, Call.internal())
            assert len(mesh.endpoint) == 0


async def test_a_request_whose_deadline_passes_leaves_nothing_and_the_next_one_works(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                for milliseconds in (1, 3, 5, 10, 15, 20, 30):
                    request = mesh.request(kernel(netns))
                    with suppress(NextHopError):
                        await hop.request(request, timeout_s=milliseconds / 1000)
                    await hop.close(request.connection, timeout_s=10)
                    await until(lambda: len(mesh.endpoint) == 0)
                    assert links(netns) == links(mesh.endpoint_netns) == []
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                assert links(netns) == ["nsm-1"]
                await hop.close(answer, timeout_s=10)


async def test_clients_that_come_go_and_give_up_at_the_same_time_leave_nothing(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:

                async def life(number: int) -> None:
                    request = mesh.request(kernel(netns, f"nsm-{number}"), client=f"nsc-{number}")
                    asking = asyncio.create_task(hop.request(request, timeout_s=20))
                    if number % 3 == 0:
                        await asyncio.sleep(number / 500)
                        asking.cancel()
                        await asyncio.wait([asking])
                    else:
                        await asking
                    await hop.close(request.connection, timeout_s=20)

                await asyncio.gather(*(life(number) for number in range(24)))
                await until(lambda: len(mesh.endpoint) == 0)
                assert links(netns) == links(mesh.endpoint_netns) == []
