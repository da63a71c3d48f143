"""What a pod's kernel sends leaves at the other pod's link, byte by byte, in both storage modes."""

import asyncio
import random
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from forwarder.dataplane import Dataplane
from forwarder.dataplane.spec import Mode, Offload
from tests.support.counters import settled
from tests.support.frames import ETHERTYPES, ethernet_of, every_size, samples, stretched
from tests.support.kernel_wire import LINK, MACS, OUR_MACS, KernelWire, Pods, kernel_wire, pods
from tests.support.packet_socket import PacketSocket, packet_socket
from tests.support.port_kinds import KINDS
from tests.support.superframe import SuperFrame, super_frame

BATCH = 100
"""Frames on the way at once: less than any queue between the two pods holds."""
LONG_TCP = TCP(dport=9, options=[("NOP", 0)] * 40)


@pytest.fixture(scope="module")
def two_pods() -> Iterator[Pods]:
    with pods() as made:
        yield made


@pytest.fixture(params=[False, True], ids=["queue", "ring"])
def ring(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    return frame[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + frame[12:]


def carry(sender: PacketSocket, receiver: PacketSocket, frames: list[bytes]) -> list[bytes]:
    """Sends frames a batch at a time and returns what arrived."""
    arrived = []
    for start in range(0, len(frames), BATCH):
        batch = frames[start : start + BATCH]
        for frame in batch:
            sender.send(frame)
        arrived += receiver.receive_all(len(batch))
    return arrived


async def check(wire: KernelWire, frames: list[bytes]) -> None:
    """Carries frames both ways, and checks that each arrives as it was, alone, and is counted."""
    before = await settled(wire)
    with packet_socket(wire.pods.a, LINK) as a, packet_socket(wire.pods.b, LINK) as b:
        assert await asyncio.to_thread(carry, a, b, frames) == frames
        assert await asyncio.to_thread(carry, b, a, frames) == frames
        assert a.drain() == b.drain() == []
    after = await settled(wire)
    for one, other in ((after.a_to_b, before.a_to_b), (after.b_to_a, before.b_to_a)):
        assert one.in_frames - other.in_frames == one.out_frames - other.out_frames == len(frames)
        assert one.in_bytes - other.in_bytes == one.out_bytes - other.out_bytes == sum(map(len, frames))
        assert not one.drops


async def test_every_length_from_60_to_the_mtu_arrives_unchanged(two_pods: Pods, ring: bool) -> None:
    async with kernel_wire(two_pods, ring=ring) as wire:
        await check(wire, list(every_size()))


async def test_frames_of_every_kind_arrive_unchanged(two_pods: Pods, ring: bool) -> None:
    async with kernel_wire(two_pods, ring=ring) as wire:
        await check(wire, samples())


async def test_every_ethertype_arrives_unchanged(two_pods: Pods, ring: bool) -> None:
    generator = random.Random(1)
    kinds = sorted({*ETHERTYPES, *(generator.randrange(0x10000) for _ in range(2000))})
    head = MACS[1] + MACS[0]
    frames = [head + struct.pack("!H", kind) + stretched(struct.pack("!Q", kind), 60) for kind in kinds]
    async with kernel_wire(two_pods, ring=ring) as wire:
        await check(wire, frames)


async def test_vlan_tags_arrive_where_they_were(two_pods: Pods, ring: bool) -> None:
    plain = [*samples(), max(every_size(), key=len)]
    frames = []
    for frame in plain:
        if frame[12:14] in (b"\x81\x00", b"\x88\xa8"):
            continue
        frames += [tagged(frame, (0x8100, 5)), tagged(frame, (0x8100, 0xEFFE)), tagged(frame, (0x8100, 0))]
        if len(frame) <= 1506:  # packet sockets make room for one 802.1Q tag beyond the MTU, and no other
            frames += [tagged(frame, (0x88A8, 7))]
            frames += [tagged(frame, (0x88A8, 7), (0x8100, 5)), tagged(frame, (0x8100, 1), (0x8100, 2))]
    async with kernel_wire(two_pods, ring=ring) as wire:
        await check(wire, frames)


def unfinished() -> list[SuperFrame]:
    ether = Ether(src=MACS[0], dst=MACS[1])
    v4, v6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    tcp, udp = TCP(sport=1, dport=2, seq=7, flags="PA"), UDP(sport=1, dport=2)
    made = [super_frame(ether / ip / l4, stretched(b"unfinish", 30000), 1400) for ip in (v4, v6) for l4 in (tcp, udp)]
    return [*made, super_frame(ether / v4 / tcp, stretched(b"unfinish", 65400), 1448)]


def carry_unfinished(sender: PacketSocket, receiver: PacketSocket, made: list[SuperFrame], vlan: bool) -> None:
    for one in made:
        frame, offload = one.frame, one.offload
        if vlan:
            frame = tagged(frame, (0x8100, 5))
            offload = Offload(
                flags=offload.flags,
                gso_type=offload.gso_type,
                gso_size=offload.gso_size,
                csum_start=offload.csum_start + 4,
                csum_offset=offload.csum_offset,
            )
        sender.send(frame, offload)
        arrived, header = receiver.receive()
        if vlan:  # what the receiving kernel says counts from before the tag was taken out
            header = Offload(
                flags=header.flags,
                gso_type=header.gso_type,
                gso_size=header.gso_size,
                csum_start=header.csum_start + 4,
                csum_offset=header.csum_offset,
            )
        assert arrived == frame
        assert (header.flags, header.gso_type, header.gso_size) == (offload.flags, offload.gso_type, offload.gso_size)
        assert (header.csum_start, header.csum_offset) == (offload.csum_start, offload.csum_offset)


@pytest.mark.parametrize("vlan", [False, True], ids=["untagged", "vlan"])
async def test_super_frames_cross_whole_and_unfinished(two_pods: Pods, ring: bool, vlan: bool) -> None:
    made = unfinished()
    if vlan:
        made.pop()  # with a tag it is longer than 64 KiB
    async with kernel_wire(two_pods, ring=ring) as wire:
        with (
            packet_socket(two_pods.a, LINK, vnet_hdr=True) as a,
            packet_socket(two_pods.b, LINK, vnet_hdr=True) as b,
        ):
            await asyncio.to_thread(carry_unfinished, a, b, made, vlan)
        flow = (await settled(wire)).a_to_b
        assert flow.in_frames == flow.out_frames == len(made)


async def test_ip_payload_carries_packets_and_rebuilds_ethernet(two_pods: Pods, ring: bool) -> None:
    packets = [
        bytes(packet)
        for packet in (
            IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / stretched(b"ip mode!", 1472),
            IP(src="10.0.0.1", dst="224.0.0.5", proto=89) / stretched(b"ip mode!", 40),
            IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=1, dport=2) / stretched(b"ip mode!", 1452),
            IPv6(src="2001:db8::1", dst="ff02::1") / TCP(),
        )
    ]
    sent = [ethernet_of(p, source="02:00:00:00:00:0a", destination="ff:ff:ff:ff:ff:ff") for p in packets]
    others = [frame for frame in samples() if frame[12:14] not in (b"\x08\x00", b"\x86\xdd")]
    async with kernel_wire(two_pods, ring=ring, mode=Mode.IP) as wire:
        with packet_socket(two_pods.a, LINK) as a, packet_socket(two_pods.b, LINK) as b:
            for frame in others + sent:
                a.send(frame)
            arrived = await asyncio.to_thread(b.receive_all, len(sent))
            assert b.drain() == []
        assert [frame[14:] for frame in arrived] == [frame[14:] for frame in sent]
        assert {frame[:12] for frame in arrived} == {MACS[1] + OUR_MACS[1]}
        assert [frame[12:14] for frame in arrived] == [frame[12:14] for frame in sent]
        flow = (await settled(wire)).a_to_b
        assert flow.in_frames == len(others) + len(sent)
        assert flow.out_frames == len(sent)
        assert flow.drops == {"not_ip": len(others)}


async def test_super_frames_cross_an_ip_payload_wire(two_pods: Pods, ring: bool) -> None:
    async with kernel_wire(two_pods, ring=ring, mode=Mode.IP):
        with (
            packet_socket(two_pods.a, LINK, vnet_hdr=True) as a,
            packet_socket(two_pods.b, LINK, vnet_hdr=True) as b,
        ):
            for one in unfinished():
                a.send(one.frame, one.offload)
                arrived, header = await asyncio.to_thread(b.receive)
                assert arrived[14:] == one.frame[14:]
                assert arrived[:12] == MACS[1] + OUR_MACS[1]
                assert (header.gso_type, header.gso_size) == (one.offload.gso_type, one.offload.gso_size)
                assert (header.csum_start, header.csum_offset) == (one.offload.csum_start, one.offload.csum_offset)


async def test_a_complete_frame_has_nothing_of_the_super_frame_before_it(two_pods: Pods) -> None:
    """Both were lent in the same place; the kernel refuses a frame that claims a longer header than it has."""
    made = super_frame(
        Ether(dst=MACS[1].hex(":"), src=MACS[0].hex(":")) / IP(src="10.0.0.1", dst="10.0.0.2") / LONG_TCP,
        bytes(10_000),
        1400,
    )
    short = ethernet_of(bytes(46))
    async with (
        Dataplane() as dataplane,
        dataplane.kernel_port(two_pods.spec(0)) as port,
        KINDS["memif-server"](dataplane, Mode.ETHERNET) as far,
        dataplane.vwire(port, far.port) as wire,
    ):
        with packet_socket(two_pods.a, LINK, vnet_hdr=True) as unfinished, packet_socket(two_pods.a, LINK) as pod:
            unfinished.send(made.frame, made.offload)
            assert await far.receive(len(made.segments)) == made.segments
            await far.send([short])
            assert await asyncio.to_thread(pod.receive_all, 1) == [short]
        assert (await settled(wire)).b_to_a.drops == {}
