"""A repeated Request changes what changed and nothing else, while frames keep flowing."""

import asyncio

import pytest

from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.path import copy
from tests.support.domain import domain, kernel, links, memif, pod
from tests.support.netns import Netns as Shell


def again(answer):
    return NetworkServiceRequest(connection=answer)


@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_a_refresh_keeps_the_interface_and_loses_no_frame(tmp_path, datapath):
    """C-36."""
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                shell = Shell(netns.fileno())
                before = shell.ifindex("nsm-1")
                target = answer.context.ip_context.dst_ip_addrs[0].partition("/")[0]
                pinging = asyncio.create_task(
                    asyncio.to_thread(shell.run, "ping", "-n", "-q", "-c", "100", "-i", "0.01", "-W", "5", target)
                )
                for _ in range(20):
                    answer = await hop.request(again(answer), timeout_s=10)
                assert " 0% packet loss" in (await pinging).stdout
                assert shell.ifindex("nsm-1") == before
                metrics = answer.path.path_segments[1].metrics
                assert metrics["server_interface"] == "KERNEL/nsm-1"
                assert (
                    int(
                        (await hop.request(again(answer), timeout_s=10))
                        .path.path_segments[1]
                        .metrics["server_rx_packets"]
                    )
                    >= 100
                )


async def test_concurrent_requests_of_one_client_take_turns_and_make_one_vwire(tmp_path):
    """C-36."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                request = mesh.request(kernel(netns))
                answers = await asyncio.gather(*(hop.request(request, timeout_s=15) for _ in range(10)))
                assert len({each.path.path_segments[1].id for each in answers}) == 1
                assert links(netns) == ["nsm-1"]
                assert len(mesh.endpoint) == 1
                assert len(links(mesh.endpoint_netns)) == 1


@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_a_renamed_interface_takes_the_place_of_the_old_one(tmp_path, datapath):
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                changed = copy(answer)
                changed.mechanism.parameters["name"] = "nsm-2"
                answer = await hop.request(again(changed), timeout_s=10)
                assert answer.mechanism.parameters["name"] == "nsm-2"
                assert links(netns) == ["nsm-2"]
                target = answer.context.ip_context.dst_ip_addrs[0].partition("/")[0]
                await asyncio.to_thread(Shell(netns.fileno()).run, "ping", "-c", "1", "-W", "5", target)


@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_a_client_changes_from_kernel_to_memif_and_back(tmp_path, datapath):
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                for mechanism, there in ((memif(netns), []), (kernel(netns), ["nsm-1"])):
                    changed = copy(answer)
                    changed.mechanism.CopyFrom(mechanism)
                    answer = await hop.request(again(changed), timeout_s=10)
                    assert answer.mechanism.type == mechanism.type
                    assert links(netns) == there
                    assert len(links(mesh.endpoint_netns)) == 1
                target = answer.context.ip_context.dst_ip_addrs[0].partition("/")[0]
                await asyncio.to_thread(Shell(netns.fileno()).run, "ping", "-c", "1", "-W", "5", target)


@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_a_changed_mtu_is_applied_in_place(tmp_path, datapath):
    async with domain(tmp_path, datapath=datapath) as mesh:
        with pod() as netns:
            async with mesh.hop() as hop:
                answer = await hop.request(mesh.request(kernel(netns)), timeout_s=10)
                shell = Shell(netns.fileno())
                before = shell.ifindex("nsm-1")
                changed = copy(answer)
                changed.context.MTU = 1400
                await hop.request(again(changed), timeout_s=10)
                assert shell.links()["nsm-1"]["mtu"] == 1400
                assert shell.ifindex("nsm-1") == before
