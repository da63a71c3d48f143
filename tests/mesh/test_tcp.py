"""TCP with its offloads on over vWires that were asked for, both ways: every byte arrives as it was sent."""

import socket

import pytest

from forwarder.dataplane import Dataplane, MemifPortSpec, Mode, Role
from tests.support.domain import domain, pod, until
from tests.support.netns import Netns as Shell
from tests.support.transfer import TRANSFER_BYTES, transfer
from tests.support.vwire_ends import RawMemifEnd

PAYLOADS = pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])


async def both_ways(client, endpoint, vwire, family):
    index = 0 if family == socket.AF_INET else 1
    await transfer(client, endpoint, family, vwire.peers[index].partition("/")[0])
    await transfer(endpoint, client, family, vwire.addresses[index].partition("/")[0])


async def check_counters(mesh):
    """Everything is accounted for, and nothing was dropped because it could not be finished."""

    def balanced() -> bool:
        (status,) = mesh.forwarder.statistics().connections
        flows = (status.vwire.a_to_b, status.vwire.b_to_a)
        return all(flow.in_frames == flow.out_frames + flow.dropped_frames for flow in flows)

    await until(balanced)  # a burst is counted after it has been sent
    (status,) = mesh.forwarder.statistics().connections
    for flow in (status.vwire.a_to_b, status.vwire.b_to_a):
        assert flow.in_bytes > TRANSFER_BYTES
        assert not {"bad_offload", "gso_unsupported", "too_big", "not_ip"} & set(flow.drops)


@PAYLOADS
@FAMILIES
async def test_100_mb_arrive_whole_both_ways_from_kernel_to_kernel(tmp_path, family, payload):
    async with domain(tmp_path, payload=payload, datapath="userspace") as mesh:
        with pod() as netns:
            async with mesh.vwire(netns) as vwire:
                await both_ways(Shell(netns.fileno()), mesh.endpoint_pod, vwire, family)
                await check_counters(mesh)


@PAYLOADS
@FAMILIES
async def test_100_mb_arrive_whole_both_ways_from_kernel_to_memif_and_from_memif_to_kernel(tmp_path, family, payload):
    """Pod, forwarder, memif endpoint that is also a memif client, another forwarder, kernel endpoint."""
    (tmp_path / "near").mkdir()
    (tmp_path / "far").mkdir()
    async with Dataplane() as application:
        raw = RawMemifEnd(application.memif_port)
        async with (
            domain(tmp_path / "near", endpoint="MEMIF", payload=payload, memif=raw, datapath="userspace") as near,
            domain(tmp_path / "far", payload=payload, datapath="userspace") as far,
        ):
            with pod() as netns:
                async with near.vwire(netns) as vwire, far.vwire(near.endpoint_netns, "memif") as onward:
                    # Both endpoints gave the first addresses that they have.
                    assert (vwire.addresses, vwire.peers) == (onward.addresses, onward.peers)
                    spec = MemifPortSpec(
                        role=Role.CLIENT,
                        address=onward.socket,
                        netns=near.endpoint_netns.fileno(),
                        mode=Mode[payload],
                    )
                    async with application.memif_port(spec) as port, application.vwire(raw.opened[0], port):
                        await port.wait_connected()
                        await raw.opened[0].wait_connected()
                        await both_ways(Shell(netns.fileno()), far.endpoint_pod, vwire, family)
                        await check_counters(near)
                        await check_counters(far)
