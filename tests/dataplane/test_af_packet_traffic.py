"""What unmodified programs send arrives: TCP with its offloads on, UDP with segmentation, while ports change."""

import asyncio
import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from forwarder.dataplane import Dataplane
from forwarder.dataplane.kernel_port import KernelPorts
from forwarder.dataplane.spec import MemifPortSpec, Mode, Role
from tests.support.counters import settled
from tests.support.frames import stretched
from tests.support.kernel_wire import LINK, MACS, Pods, kernel_wire, pods
from tests.support.netns import Netns
from tests.support.packet_socket import PacketSocket, packet_socket
from tests.support.port_kinds import KINDS
from tests.support.transfer import TRANSFER_BYTES, transfer

UDP_SEGMENT = 103
ADDRESSES = {socket.AF_INET: ("10.0.0.1", "10.0.0.2"), socket.AF_INET6: ("2001:db8::1", "2001:db8::2")}


@pytest.fixture(scope="module")
def addressed_pods() -> Iterator[Pods]:
    with pods(addressed=True) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["queue", "ring"])
def ring(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    return socket.AddressFamily(request.param)


@pytest.mark.parametrize("mode", [Mode.ETHERNET, Mode.IP], ids=["ethernet", "ip"])
async def test_100_mb_over_tcp_arrive_whole_both_ways(
    addressed_pods: Pods, family: socket.AddressFamily, ring: bool, mode: Mode
) -> None:
    first, second = ADDRESSES[family]
    neighbours(addressed_pods)
    async with kernel_wire(addressed_pods, ring=ring, mode=mode) as wire:
        await transfer(addressed_pods.a, addressed_pods.b, family, second)
        await transfer(addressed_pods.b, addressed_pods.a, family, first)
        statistics = await settled(wire)
        for flow in (statistics.a_to_b, statistics.b_to_a):
            assert flow.in_frames == flow.out_frames + flow.dropped_frames
            assert flow.in_bytes > TRANSFER_BYTES
            # Whole super-frames: far fewer frames than packets of 1500 bytes, acknowledgements included.
            assert flow.in_frames < 2 * TRANSFER_BYTES / 1448


def neighbours(pods: Pods) -> None:
    """Tells each pod the other's address, for payload IP carries no ARP and no neighbour discovery.

    On a wire for Ethernet frames they are the right ones too.
    """
    for pod, side in ((pods.a, 1), (pods.b, 0)):
        for addresses in ADDRESSES.values():
            pod.run("ip", "neigh", "replace", addresses[side], "lladdr", MACS[side].hex(":"), "dev", LINK)


def send_segmented(netns: Netns, family: int, address: str, port: int, data: bytes, size: int) -> None:
    with netns.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendmsg([data], [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))], 0, (address, port))


async def test_datagrams_sent_as_one_arrive_as_many(
    addressed_pods: Pods, family: socket.AddressFamily, ring: bool
) -> None:
    neighbours(addressed_pods)
    address = ADDRESSES[family][1]
    data = stretched(b"datagram", 40_000)
    async with kernel_wire(addressed_pods, ring=ring) as wire:
        with addressed_pods.b.socket(family, socket.SOCK_DGRAM) as sink:
            sink.bind((address, 0))
            sink.settimeout(5)
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            before = (await settled(wire)).a_to_b
            send_segmented(addressed_pods.a, family, address, sink.getsockname()[1], data, 1200)
            pieces = [await asyncio.to_thread(sink.recv, 65536) for _ in range(34)]
        after = (await settled(wire)).a_to_b
    assert pieces == [data[i : i + 1200] for i in range(0, len(data), 1200)]
    assert after.in_bytes - before.in_bytes > len(data)
    assert after.in_frames - before.in_frames < len(pieces)


async def test_super_frames_pass_where_our_end_segments_itself(addressed_pods: Pods) -> None:
    """Around the queue discipline nothing is segmented; a link without offloads takes frames through it."""
    hub = addressed_pods.hub
    off = ("tx", "off", "tso", "off", "gso", "off", "sg", "off")
    hub.run("ethtool", "-K", "port-b", *off)
    try:
        async with kernel_wire(addressed_pods) as wire:
            await transfer(addressed_pods.a, addressed_pods.b, socket.AF_INET, "10.0.0.2", 8 << 20)
            flow = (await settled(wire)).a_to_b
            assert flow.in_frames == flow.out_frames + flow.dropped_frames
    finally:
        hub.run("ethtool", "-K", "port-b", *(word.replace("off", "on") for word in off))


def stream(sender: PacketSocket, receiver: PacketSocket, enough: threading.Event, window: int) -> tuple[int, list[int]]:
    """Sends numbered frames until there are enough, never more than `window` ahead of what arrived.

    Returns how many were sent, and the numbers that arrived.
    """
    head = MACS[1] + MACS[0] + b"\x88\xb5"
    arrived: list[int] = []
    sent = 0
    while not enough.is_set():
        sender.send(head + struct.pack("!Q", sent) + bytes(40))
        sent += 1
        if sent - len(arrived) > window:
            arrived.append(struct.unpack_from("!Q", receiver.receive()[0], 14)[0])
    while len(arrived) < sent:
        arrived.append(struct.unpack_from("!Q", receiver.receive()[0], 14)[0])
    return sent, arrived


async def test_no_frame_is_lost_doubled_or_overtaken_while_a_port_changes_to_its_ring_and_back() -> None:
    enough = threading.Event()
    with pods() as two_pods:
        async with kernel_wire(two_pods, ring_rate=1e9) as wire:
            with packet_socket(two_pods.a, LINK) as a, packet_socket(two_pods.b, LINK) as b:
                traffic = asyncio.create_task(asyncio.to_thread(stream, a, b, enough, 50))
                now = 1.0
                try:
                    for change in range(10):
                        # A limit below all rates, then one above: there, and all the way back.
                        wire.ports.ring_rate = 1e9 if change % 2 else 0
                        while (wire.a.ring is None) != bool(change % 2) or wire.ports.rings not in (0, 2):
                            await wire.ports.look(now := now + 1.0)
                            await asyncio.sleep(0.002)
                            assert not traffic.done()
                finally:
                    enough.set()
                sent, arrived = await traffic
                assert arrived == list(range(sent))
                assert b.drain() == []
            flow = wire.statistics().a_to_b
            assert flow.in_frames == flow.out_frames == sent
            assert wire.a.statistics().missed == 0


async def test_frames_that_wait_for_room_are_not_overtaken_while_their_port_changes_to_its_ring_and_back() -> None:
    """Queue and ring both hold frames, because the receiver has stopped; then it takes them all."""
    ports = KernelPorts(ring_rate=1e9)
    with pods() as two_pods:
        async with (
            Dataplane(stall_limit_ms=60_000) as dataplane,
            ports.open(two_pods.spec(0)) as port,
            KINDS["memif-client"](dataplane, Mode.ETHERNET) as far,
            dataplane.vwire(port, far.port) as wire,
        ):
            numbers = itertools.count()
            now = itertools.count(1.0)
            sent: list[bytes] = []
            with packet_socket(two_pods.a, LINK) as pod:

                def send(count: int) -> None:
                    for _ in range(count):
                        sent.append(MACS[1] + MACS[0] + b"\x88\xb5" + struct.pack("!Q", next(numbers)) + bytes(40))
                        pod.send(sent[-1])

                async def look(ring_rate: float) -> None:
                    ports.ring_rate = ring_rate
                    await ports.look(next(now))

                for _ in range(2):
                    send(300)
                    await look(0)  # more into the queue than the receiver's ring takes, and the rest into ours
                    assert port.ring is not None
                    send(60)
                    assert await far.receive(360) == sent[-360:]
                    await look(0)
                    for _ in range(4):
                        send(64)
                        await settled(wire)
                    send(60)  # now they stay in our ring, and go before what comes to the queue
                    await look(1e9)
                    send(60)
                    assert await far.receive(376) == sent[-376:]
                    while port.ring is not None or ports.rings:
                        await look(1e9)
                        await asyncio.sleep(0.002)
            flow = (await settled(wire)).a_to_b
            assert flow.drops == {}
            assert flow.in_frames == flow.out_frames == len(sent)
            assert port.statistics().missed == 0


@pytest.mark.parametrize("log2_ring_size", [8, 10])
@pytest.mark.parametrize("mode", [Mode.ETHERNET, Mode.IP], ids=["ethernet", "ip"])
async def test_100_mb_over_tcp_arrive_whole_where_memif_is_on_the_way(
    addressed_pods: Pods, family: socket.AddressFamily, mode: Mode, log2_ring_size: int
) -> None:
    """Pod, kernel port, memif, memif, kernel port, pod: super-frames become segments with whole checksums.

    None is dropped for want of room, though one burst of them needs many times the ring.
    """
    neighbours(addressed_pods)
    address = f"@vwire-tcp-{os.getpid()}"
    first, second = ADDRESSES[family]

    def spec(role: Role) -> MemifPortSpec:
        return MemifPortSpec(role=role, address=address, mode=mode, log2_ring_size=log2_ring_size)

    async with (
        Dataplane() as dataplane,
        dataplane.kernel_port(addressed_pods.spec(0, mode)) as a,
        dataplane.kernel_port(addressed_pods.spec(1, mode)) as b,
        dataplane.memif_port(spec(Role.SERVER)) as server,
        dataplane.memif_port(spec(Role.CLIENT)) as client,
    ):
        await asyncio.gather(server.wait_connected(), client.wait_connected())
        async with dataplane.vwire(a, server) as left, dataplane.vwire(client, b) as right:
            await transfer(addressed_pods.a, addressed_pods.b, family, second)
            await transfer(addressed_pods.b, addressed_pods.a, family, first)
            for wire in (left, right):
                statistics = await settled(wire)
                for flow in (statistics.a_to_b, statistics.b_to_a):
                    assert flow.in_frames == flow.out_frames
                    assert flow.drops == {}
