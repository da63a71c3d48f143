"""A Request becomes a vWire that carries frames, for every pair of mechanisms and both payloads."""

import asyncio

import pytest

from tests.support.domain import domain, links, ping, pod

DIRECT = {("memif", "MEMIF"): "memif", ("kernel", "KERNEL"): "veth"}
"""What carries frames between two mechanisms without the workers."""


@pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
@pytest.mark.parametrize("endpoint", ["KERNEL", "MEMIF"])
@pytest.mark.parametrize("client", ["kernel", "memif"])
@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_ping_over_every_pair_of_mechanisms(tmp_path, datapath, client, endpoint, payload):
    async with domain(tmp_path, endpoint=endpoint, payload=payload, datapath=datapath) as mesh:
        with pod() as netns:
            async with mesh.vwire(netns, client) as vwire:
                for family in (0, 1):
                    if client == "kernel":
                        assert await ping(netns, vwire.peers[family]) == 3
                        assert await ping(netns, vwire.peers[family], size=8000) == 3
                        continue
                    async with mesh.application(vwire, netns, family) as pinger:
                        for sequence, size in enumerate((56, 1400, 8000)):
                            assert await pinger.ping(sequence, size=size, timeout_s=5) is not None
                (status,) = mesh.forwarder.statistics().connections
                assert status.datapath == (
                    DIRECT.get((client, endpoint), "userspace") if datapath == "auto" else datapath
                )
                if status.datapath == "memif":
                    assert status.vwire is None, "nobody counts"
                else:
                    assert status.vwire is not None
                    assert status.vwire.a_to_b.out_frames >= 6
                    assert status.vwire.b_to_a.out_frames >= 6
                assert status.client_interface.startswith(client.upper())
                assert status.endpoint_interface.startswith(endpoint)
            assert links(netns) == []
        assert links(mesh.endpoint_netns) == []
        assert len(mesh.endpoint) == 0


async def test_16_vwires_of_one_pod_have_their_own_interfaces_and_closing_one_affects_only_it(tmp_path):
    """C-34."""
    async with domain(tmp_path) as mesh:
        with pod() as netns:
            opened = [mesh.vwire(netns, number=number, interface=f"nsm-{number}") for number in range(16)]
            vwires = await asyncio.gather(*(each.__aenter__() for each in opened))
            try:
                assert links(netns) == sorted(f"nsm-{number}" for number in range(16))
                assert len({vwire.addresses[0] for vwire in vwires}) == 16
                await opened[7].__aexit__(None, None, None)
                assert "nsm-7" not in links(netns)
                answers = await asyncio.gather(
                    *(ping(netns, each.peers[0]) for each in vwires if each is not vwires[7])
                )
                assert answers == [3] * 15
                assert await ping(netns, vwires[7].peers[0], count=1) == 0
            finally:
                for number, each in enumerate(opened):
                    if number != 7:
                        await each.__aexit__(None, None, None)
            assert links(netns) == []
