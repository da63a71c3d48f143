"""What MonitorConnections tells over gRPC, to whom, and that a slow reader holds up nobody."""

import asyncio

import pytest

from forwarder.api.connection_pb2 import (
    DELETE,
    DOWN,
    INITIAL_STATE_TRANSFER,
    UP,
    UPDATE,
    MonitorScopeSelector,
    PathSegment,
)
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from tests.support.domain import domain, kernel, mine, pod
from tests.support.netns import Netns as Shell


async def told(events):
    async with asyncio.timeout(10):
        event = await anext(events)
    return event.type, list(event.connections.values())


async def test_a_watcher_sees_a_connection_come_refresh_and_go_in_the_forwarders_view(tmp_path):
    """C-38."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop, hop.monitor(MonitorScopeSelector()) as events:
                assert await told(events) == (INITIAL_STATE_TRANSFER, [])
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                kind, (view,) = await told(events)
                assert (kind, view.state, view.id, view.path.index) == (UPDATE, UP, mine(answer), 1)
                assert len(view.path.path_segments) == 3
                await hop.close(answer, timeout_s=10)
                while kind != DELETE:
                    kind, (view,) = await told(events)
                assert view.id == mine(answer)


async def test_a_watcher_gets_what_is_there_first_and_only_what_it_asked_for(tmp_path):
    """C-38."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                one = await hop.request(mesh.request(kernel(netns, "nsm-1"), client="one"), timeout_s=10)
                await hop.request(mesh.request(kernel(netns, "nsm-2"), client="two"), timeout_s=10)
                by_segment = MonitorScopeSelector(path_segments=[PathSegment(name="one", id="one-0")])
                async with hop.monitor(by_segment) as events:
                    kind, (view,) = await told(events)
                    assert (kind, view.id) == (INITIAL_STATE_TRANSFER, mine(one))
                async with hop.monitor(MonitorScopeSelector(network_services=["another"])) as events:
                    assert await told(events) == (INITIAL_STATE_TRANSFER, [])
                async with hop.monitor(MonitorScopeSelector(network_services=["web"])) as events:
                    kind, views = await told(events)
                    assert (kind, len(views)) == (INITIAL_STATE_TRANSFER, 2)


async def test_a_reader_that_never_reads_holds_up_nobody(tmp_path):
    """C-38."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop, mesh.hop() as slow, slow.monitor(MonitorScopeSelector()):
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                for _ in range(50):
                    answer = await hop.request(_refresh(answer), timeout_s=10)
                await hop.close(answer, timeout_s=10)


def _refresh(answer):
    return NetworkServiceRequest(connection=answer)


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
async def test_an_interface_that_disappears_makes_the_connection_down_and_a_request_heals_it(tmp_path, datapath):
    """C-38."""
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop, hop.monitor(MonitorScopeSelector()) as events:
                await told(events)
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                await told(events)
                Shell(netns.fileno()).run("ip", "link", "delete", "nsm-1")
                state = UP
                while state != DOWN:
                    kind, (view,) = await told(events)
                    state = view.state
                assert kind == UPDATE
                await hop.request(_refresh(answer), timeout_s=10)
                while state != UP:
                    _, (view,) = await told(events)
                    state = view.state
                assert "nsm-1" in Shell(netns.fileno()).links()


async def test_an_endpoint_that_closes_makes_the_connection_down(tmp_path):
    """C-38."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop, hop.monitor(MonitorScopeSelector()) as events:
                await told(events)
                await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                await mesh.endpoint.__aexit__(None, None, None)
                state = UP
                while state != DOWN:
                    _, (view,) = await told(events)
                    state = view.state
