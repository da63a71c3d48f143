"""TCP segments from a port that has no super-frames enter a kernel as one, and no byte of them is another."""

import asyncio
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether

from forwarder.dataplane.kernel_port import KernelPorts
from forwarder.dataplane.offload import segment
from forwarder.dataplane.port_io import PortIO
from forwarder.dataplane.spec import Mode
from tests.support.frames import stretched
from tests.support.kernel_wire import LINK, MACS, OUR_MACS, Pods, pods
from tests.support.packet_socket import packet_socket
from tests.support.superframe import SuperFrame, super_frame

SIZE = 1400
OFFLOADS_OFF = ("tx", "off", "sg", "off", "tso", "off", "gso", "off")
ETHERNET = Ether(src=OUR_MACS[0], dst=MACS[0])
TCP_DATA = TCP(
    sport=4, dport=5, seq=0xFFFFFF00, ack=7, flags="PA", options=[("NOP", 0), ("NOP", 0), ("Timestamp", (1, 2))]
)
NETWORKS = {
    "ipv4": IP(src="10.1.2.3", dst="10.1.2.4", id=0xFFF0, flags="DF"),
    "ipv6": IPv6(src="2001:db8::1", dst="2001:db8::2", fl=5),
}


@pytest.fixture(scope="module")
def two_pods() -> Iterator[Pods]:
    with pods() as made:
        yield made


@pytest.fixture(params=NETWORKS)
def made(request: pytest.FixtureRequest) -> SuperFrame:
    return super_frame(ETHERNET / NETWORKS[request.param] / TCP_DATA, stretched(b"payload", 60_000), SIZE)


@pytest.fixture
def software_end(two_pods: Pods) -> Iterator[None]:
    """Our end of the first pod's link segments nothing and sums nothing."""
    two_pods.hub.run("ethtool", "-K", "port-a", *OFFLOADS_OFF)
    yield
    two_pods.hub.run("ethtool", "-K", "port-a", *(word.replace("off", "on") for word in OFFLOADS_OFF))


def check_counted(io: PortIO, frames: list[bytes]) -> None:
    _, sent = io.statistics()
    assert (sent.in_frames, sent.out_frames, sent.drops) == (len(frames), len(frames), {})
    assert sent.in_bytes == sent.out_bytes == sum(map(len, frames))


async def test_segments_enter_a_kernel_as_the_super_frame_they_were(two_pods: Pods, made: SuperFrame) -> None:
    async with KernelPorts().open(two_pods.spec(0)) as port:
        with PortIO(port) as io, packet_socket(two_pods.a, LINK, vnet_hdr=True) as sock:
            assert io.write(made.segments) == len(made.segments)
            frame, offload = await asyncio.to_thread(sock.receive)
            assert frame == made.frame
            assert segment(frame, offload) == made.segments
            assert sock.drain() == []
            check_counted(io, made.segments)


async def test_tagged_segments_do_too(two_pods: Pods) -> None:
    made = super_frame(ETHERNET / Dot1Q(vlan=5) / NETWORKS["ipv4"] / TCP_DATA, stretched(b"payload", 60_000), SIZE)
    async with KernelPorts().open(two_pods.spec(0)) as port:
        with PortIO(port) as io, packet_socket(two_pods.a, LINK, vnet_hdr=True) as sock:
            assert io.write(made.segments) == len(made.segments)
            assert (await asyncio.to_thread(sock.receive))[0] == made.frame
            check_counted(io, made.segments)


@pytest.mark.parametrize("network", NETWORKS)
async def test_packets_do_too(two_pods: Pods, network: str) -> None:
    made = super_frame(NETWORKS[network] / TCP_DATA, stretched(b"payload", 60_000), SIZE)
    async with KernelPorts().open(two_pods.spec(0, Mode.IP)) as port:
        with PortIO(port) as io, packet_socket(two_pods.a, LINK, vnet_hdr=True) as sock:
            assert io.write(made.segments) == len(made.segments)
            frame, _ = await asyncio.to_thread(sock.receive)
            assert frame[14:] == made.frame
            check_counted(io, made.segments)


@pytest.mark.usefixtures("software_end")
@pytest.mark.parametrize("qdisc_bypass", [False, True], ids=["segmented-by-the-kernel", "refused"])
async def test_a_link_without_offloads_carries_the_same_frames(
    two_pods: Pods, made: SuperFrame, qdisc_bypass: bool
) -> None:
    async with KernelPorts(qdisc_bypass=qdisc_bypass).open(two_pods.spec(0)) as port:
        with PortIO(port) as io, packet_socket(two_pods.a, LINK) as sock:
            assert io.write(made.segments) == len(made.segments)
            assert await asyncio.to_thread(sock.receive_all, len(made.segments)) == made.segments
            assert sock.drain() == []
            check_counted(io, made.segments)


async def test_a_frame_that_is_refused_stands_between_two_super_frames(two_pods: Pods, made: SuperFrame) -> None:
    half = len(made.segments) // 2
    long = bytes(ETHERNET) + bytes(1600)
    async with KernelPorts().open(two_pods.spec(0)) as port:
        with PortIO(port) as io, packet_socket(two_pods.a, LINK, vnet_hdr=True) as sock:
            assert io.write([*made.segments[:half], long, *made.segments[half:]]) == len(made.segments) + 1
            arrived = [await asyncio.to_thread(sock.receive) for _ in range(2)]
            assert [one for frame, offload in arrived for one in segment(frame, offload)] == made.segments
            _, sent = io.statistics()
            assert (sent.out_frames, sent.drops) == (len(made.segments), {"too_big": 1})
