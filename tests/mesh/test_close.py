"""Close, expiry and the end of the forwarder leave nothing, whoever asks and however often."""

import asyncio

from forwarder.clock import SystemClock
from tests.support.domain import domain, kernel, links, pod, until
from tests.support.netns import Netns as Shell


async def test_close_is_idempotent_and_fine_for_a_connection_that_never_was(tmp_path):
    """C-37."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                request = mesh.request(kernel(netns))
                await hop.close(request.connection, timeout_s=5)
                answer = await hop.request(request, timeout_s=10)
                assert links(netns) == ["nsm-1"]
                for _ in range(3):
                    await hop.close(answer, timeout_s=10)
                    assert links(netns) == []
                    assert len(mesh.endpoint) == 0
            assert links(mesh.endpoint_netns) == []


async def test_a_close_during_a_request_waits_and_then_undoes_it(tmp_path):
    """C-37."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                request = mesh.request(kernel(netns))
                asking = asyncio.create_task(hop.request(request, timeout_s=10))
                await until(lambda: bool(mesh.forwarder._table._entries))
                await hop.close(request.connection, timeout_s=10)
                await asking
                assert links(netns) == []
                assert mesh.forwarder.statistics().connections == ()
                assert len(mesh.endpoint) == 0


async def test_a_vwire_that_nobody_refreshes_is_closed_at_every_hop_before_its_token_expires(tmp_path):
    """C-40, C-42: the client was killed, so it sends neither Close nor refresh."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                expires = SystemClock().now() + 3
                await hop.request(mesh.request(kernel(netns), lifetime_s=3), timeout_s=1)
                assert links(netns) == ["nsm-1"]
                await until(lambda: links(netns) == links(mesh.endpoint_netns) == [])
                assert SystemClock().now() < expires + 1
                assert mesh.forwarder.statistics().expired == 1
                await until(lambda: len(mesh.endpoint) == 0)


async def test_a_forwarder_that_ends_closes_its_vwires_at_the_endpoint(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                await mesh.forwarder.__aexit__(None, None, None)
                assert links(netns) == []
                assert len(mesh.endpoint) == 0


async def test_a_close_goes_on_when_the_pods_interface_is_gone_already(tmp_path):
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                Shell(netns.fileno()).run("ip", "link", "delete", "nsm-1")
                await hop.close(answer, timeout_s=10)
                assert len(mesh.endpoint) == 0
                assert links(mesh.endpoint_netns) == []


async def test_the_next_hop_is_still_listened_to_when_connections_close_while_it_answers(tmp_path, caplog):
    """Its first answer is read when some that it should have mentioned have left already."""
    async with domain(tmp_path) as mesh, mesh.hop() as hop:
        with pod() as netns:

            async def come_and_go(number: int) -> None:
                request = mesh.request(kernel(netns, f"nsm-{number}"), client=f"nsc-{number}")
                for _ in range(2):
                    await hop.close(await hop.request(request, timeout_s=30), timeout_s=30)

            await asyncio.gather(*map(come_and_go, range(20)))
            assert mesh.forwarder.statistics().connections == ()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
