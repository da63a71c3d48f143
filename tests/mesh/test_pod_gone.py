"""A pod that is gone takes its vWires with it at once, here and at the other hops, long before they expire."""

import asyncio
import os
from contextlib import contextmanager

import pytest

from forwarder.api.connection_pb2 import DELETE, Mechanism, MonitorScopeSelector
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.netns import NAMED_DIRECTORY, named, remove_name
from tests.support.domain import domain, kernel, links, memif, mine, ping, pod, pods_watched, until
from tests.support.netns import network_namespace

MECHANISMS = {"kernel": kernel, "memif": memif}


@contextmanager
def app():
    """A pod that lives as long as its one process."""
    with network_namespace() as shell, shell.process("sh", "-c", "echo here; exec sleep infinity") as process:
        process.stdout.readline()
        yield process


def preference(kind: str, pid: int) -> Mechanism:
    found = os.stat(f"/proc/{pid}/ns/net")
    parameters = {"inodeURL": f"inode://{found.st_dev}/{found.st_ino}"}
    if kind == "kernel":
        parameters["name"] = "nsm-1"
    return Mechanism(cls="LOCAL", type=kind.upper(), parameters=parameters)


def name_of(netns):
    """The name in /run/netns of a namespace."""
    return next(name for name in named() if os.stat(NAMED_DIRECTORY / name).st_ino == netns.identity[1])


@pytest.mark.parametrize("endpoint", ["KERNEL", "MEMIF"])
@pytest.mark.parametrize("client", ["kernel", "memif"])
async def test_when_the_pods_last_process_is_killed_its_vwire_is_closed_at_every_hop(tmp_path, client, endpoint):
    """C-42. The test holds the pod's namespace open, and for memif so does the forwarder: neither matters."""
    async with (
        domain(tmp_path, endpoint=endpoint) as mesh,
        mesh.hop() as hop,
        hop.monitor(MonitorScopeSelector()) as events,
    ):
        with app() as process:
            answer = await hop.request(mesh.request(preference(client, process.pid)), timeout_s=10)
            await pods_watched(mesh)
            process.kill()
            async with asyncio.timeout(10):
                event = await anext(events)
                while event.type != DELETE:
                    event = await anext(events)
            assert list(event.connections) == [mine(answer)]
            assert len(mesh.endpoint) == 0
            assert links(mesh.endpoint_netns) == []
            status = mesh.forwarder.statistics()
            assert (status.connections, status.pods_gone, status.expired) == ((), 1, 0)
            assert len(mesh.forwarder._namespaces) == 0


@pytest.mark.parametrize("client", ["kernel", "memif"])
async def test_when_the_pods_namespace_loses_its_name_its_vwire_is_closed_and_no_other(tmp_path, client):
    """C-42. What `ip netns delete` does, where no process is in the pod."""
    async with domain(tmp_path) as mesh, mesh.hop() as hop:
        with pod() as netns, pod() as bystander:
            await hop.request(mesh.request(MECHANISMS[client](netns), client="one"), timeout_s=10)
            other = await hop.request(mesh.request(kernel(bystander), client="two"), timeout_s=10)
            await pods_watched(mesh, 3)
            remove_name(name_of(netns))
            await until(lambda: len(mesh.endpoint) == 1)
            await until(lambda: [each.client for each in mesh.forwarder.statistics().connections] == ["two"])
            await until(lambda: links(netns) == [])
            assert await ping(bystander, other.context.ip_context.dst_ip_addrs[0]) == 3


async def test_when_the_endpoints_pod_is_gone_the_vwires_into_it_are_closed(tmp_path):
    """C-42. As NSM's forwarder does, so that clients look for another endpoint."""
    async with domain(tmp_path) as mesh, mesh.hop() as hop:
        with pod() as one, pod() as two:
            await hop.request(mesh.request(kernel(one), client="one"), timeout_s=10)
            await hop.request(mesh.request(memif(two), client="two"), timeout_s=10)
            await pods_watched(mesh, 3)
            remove_name(name_of(mesh.endpoint_netns))
            await until(lambda: mesh.forwarder.statistics().connections == () and links(one) == [])
            assert mesh.forwarder.statistics().pods_gone == 2


async def test_pods_that_stay_are_not_looked_for_again_at_each_refresh(tmp_path, monkeypatch):
    async with domain(tmp_path) as mesh, mesh.hop() as hop:
        with pod() as netns:
            answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
            await pods_watched(mesh)
            monkeypatch.setattr(mesh.forwarder._namespaces, "_look", lambda: pytest.fail("looked again"))
            for _ in range(3):
                answer = await hop.request(NetworkServiceRequest(connection=answer), timeout_s=10)
            assert len(mesh.forwarder._namespaces) == 2
            await hop.close(answer, timeout_s=10)
            assert len(mesh.forwarder._namespaces) == 0
