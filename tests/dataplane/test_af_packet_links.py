"""What becomes of a port when its link does not play along: down, gone, moved, too small, full, or never there."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from forwarder.dataplane import Dataplane, kernel_port
from forwarder.dataplane.kernel_port import KernelPorts
from forwarder.dataplane.spec import Offload
from forwarder.errors import DataplaneError
from tests.support.frames import every_size, samples
from tests.support.kernel_wire import LINK, OURS, KernelWire, Pods, kernel_wire, pods
from tests.support.netns import network_namespace
from tests.support.packet_socket import packet_socket
from tests.support.superframe import GSO_TCPV4, NEEDS_CSUM

FRAME = samples()[3]


@pytest.fixture
def two_pods() -> Iterator[Pods]:
    with pods() as made:
        yield made


@pytest.fixture(params=[False, True], ids=["queue", "ring"])
def ring(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def wait_until(fact: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(5):
            while not fact():  # noqa: ASYNC110  what it looks at tells nobody
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never {what}")


async def wait_received(wire: KernelWire, frames: int) -> None:
    await wait_until(lambda: wire.statistics().a_to_b.in_frames >= frames, f"received {frames} frames")


async def passes(wire: KernelWire) -> None:
    """Checks that a frame crosses in each direction."""
    with packet_socket(wire.pods.a, LINK) as a, packet_socket(wire.pods.b, LINK) as b:
        for sender, receiver in ((a, b), (b, a)):
            sender.send(FRAME)
            assert await asyncio.to_thread(receiver.receive) == (FRAME, Offload())


async def passes_again(wire: KernelWire) -> None:
    """Checks that frames cross in each direction after a while: the kernel is slow to tell a link's carrier."""
    with packet_socket(wire.pods.a, LINK) as a, packet_socket(wire.pods.b, LINK) as b:
        for sender, receiver in ((a, b), (b, a)):
            async with asyncio.timeout(5):
                sender.send(FRAME)
                while FRAME not in await asyncio.to_thread(receiver.drain):
                    sender.send(FRAME)


async def worker_rests(dataplane: Dataplane) -> None:
    """Checks that the worker sleeps: it makes no turn while nothing happens."""

    def turns() -> int:
        return sum(worker.turns for worker in dataplane.statistics().workers)

    async def still() -> bool:
        before = turns()
        await asyncio.sleep(0.1)
        return turns() - before <= 5

    async with asyncio.timeout(5):
        while not await still():
            pass


@pytest.mark.parametrize("whose", ["ours", "the pod's"])
async def test_frames_to_a_link_that_is_down_are_counted_and_pass_again_when_it_is_up(
    two_pods: Pods, ring: bool, whose: str
) -> None:
    netns, link = (two_pods.hub, OURS[1]) if whose == "ours" else (two_pods.b, LINK)
    async with kernel_wire(two_pods, ring=ring) as wire:
        await passes(wire)
        before = wire.statistics().a_to_b
        netns.run("ip", "link", "set", link, "down")
        await wait_until(lambda: not wire.b.connected, "disconnected")
        assert wire.a.connected
        with packet_socket(two_pods.a, LINK) as a:
            for _ in range(10):
                a.send(FRAME)
            await wait_received(wire, before.in_frames + 10)
        after = wire.statistics().a_to_b
        assert after.drops == {"link_down": 10}
        assert after.out_frames == before.out_frames
        await worker_rests(wire.dataplane)
        netns.run("ip", "link", "set", link, "up")
        await wait_until(lambda: wire.b.connected, "connected again")
        await passes_again(wire)
        assert wire.b.error is None


async def test_a_link_that_goes_up_and_down_often_ends_as_it_is(two_pods: Pods, ring: bool) -> None:
    async with kernel_wire(two_pods, ring=ring) as wire:
        for _ in range(10):
            two_pods.hub.run("ip", "link", "set", OURS[0], "down")
            two_pods.hub.run("ip", "link", "set", OURS[0], "up")
        await passes_again(wire)
        assert wire.a.connected


@pytest.mark.parametrize("fate", ["deleted", "moved"])
async def test_a_link_that_is_gone_kills_its_port_and_says_why(two_pods: Pods, ring: bool, fate: str) -> None:
    with network_namespace() as elsewhere:
        async with kernel_wire(two_pods, ring=ring) as wire:
            faults: list[str] = []
            wire.b.on_fault = faults.append
            await passes(wire)
            if fate == "deleted":
                two_pods.hub.run("ip", "link", "delete", OURS[1])
            else:
                two_pods.hub.run("ip", "link", "set", OURS[1], "netns", f"/proc/{os.getpid()}/fd/{elsewhere.fd}")
            await wait_until(lambda: wire.b.dead, "dead")
            assert not wire.b.connected
            assert isinstance(wire.b.error, DataplaneError)
            assert wire.b.error.errno == errno.ENODEV
            assert OURS[1] in wire.b.fault
            assert fate in wire.b.fault
            assert faults == [wire.b.fault]
            before = wire.statistics().a_to_b
            with packet_socket(two_pods.a, LINK) as a:
                for _ in range(5):
                    a.send(FRAME)
                await wait_received(wire, before.in_frames + 5)
            assert wire.statistics().a_to_b.drops == {"link_down": 5}
            await worker_rests(wire.dataplane)


async def test_a_port_whose_pod_is_gone_dies(two_pods: Pods) -> None:
    async with kernel_wire(two_pods) as wire:
        two_pods.b.run("ip", "link", "delete", LINK)
        await wait_until(lambda: wire.b.dead, "dead")
        await worker_rests(wire.dataplane)


async def test_frames_longer_than_the_link_takes_are_counted(two_pods: Pods, ring: bool) -> None:
    for netns, link in ((two_pods.b, LINK), (two_pods.hub, OURS[1])):
        netns.run("ip", "link", "set", link, "mtu", "1000")
    frames = list(every_size())
    async with kernel_wire(two_pods, ring=ring, mtus=(1500, 1000)) as wire:
        with packet_socket(two_pods.a, LINK) as a, packet_socket(two_pods.b, LINK) as b:
            arrived = []
            for start in range(0, len(frames), 100):
                batch = frames[start : start + 100]
                for frame in batch:
                    a.send(frame)
                arrived += await asyncio.to_thread(b.receive_all, sum(len(frame) <= 1014 for frame in batch))
                await wait_received(wire, start + len(batch))
            assert arrived == [frame for frame in frames if len(frame) <= 1014]
        await wait_received(wire, len(frames))
        flow = wire.statistics().a_to_b
        assert flow.drops == {"too_big": len(frames) - len(arrived)}
        assert flow.out_frames == len(arrived)


async def test_a_link_smaller_than_its_spec_says_refuses_by_itself(two_pods: Pods) -> None:
    two_pods.hub.run("ip", "link", "set", OURS[1], "mtu", "1000")
    async with kernel_wire(two_pods) as wire:
        with packet_socket(two_pods.a, LINK) as a, packet_socket(two_pods.b, LINK) as b:
            for frame in (b"\0" * 1014, b"\0" * 1015, b"\0" * 1019, b"\0" * 1014):
                a.send(frame)
            await asyncio.to_thread(b.receive_all, 2)
            await wait_received(wire, 4)
        assert wire.statistics().a_to_b.drops == {"too_big": 2}


async def test_a_full_queue_has_no_room_and_is_counted(two_pods: Pods) -> None:
    """Our end has a queue discipline that lets a frame through every now and then, and holds two."""
    two_pods.hub.run(
        "tc", "qdisc", "add", "dev", OURS[1], "root", "tbf", "rate", "100kbit", "burst", "1600", "limit", "3000"
    )
    async with kernel_wire(two_pods, qdisc_bypass=False) as wire:
        with packet_socket(two_pods.a, LINK) as a:
            for _ in range(50):
                a.send(bytes(1000))
            await wait_received(wire, 50)
        flow = wire.statistics().a_to_b
        assert flow.in_frames == 50
        assert set(flow.drops) == {"no_room"}
        assert flow.out_frames + flow.drops["no_room"] == 50
        assert flow.out_frames >= 1


async def test_an_offload_that_contradicts_its_frame_stops_nothing(two_pods: Pods, ring: bool) -> None:
    async with kernel_wire(two_pods, ring=ring) as wire:
        with packet_socket(two_pods.a, LINK, vnet_hdr=True) as a, packet_socket(two_pods.b, LINK) as b:
            for offload in (
                Offload(flags=NEEDS_CSUM, csum_start=14, csum_offset=1000),
                Offload(gso_type=GSO_TCPV4, gso_size=0),
                Offload(flags=NEEDS_CSUM, gso_type=GSO_TCPV4, gso_size=1, csum_start=34, csum_offset=16),
                Offload(gso_type=99, gso_size=100),
            ):
                with suppress(OSError):  # the sender's own kernel may see it first
                    a.send(FRAME, offload)
            a.send(FRAME)
            while (await asyncio.to_thread(b.receive))[0] != FRAME:
                pass
        flow = wire.statistics().a_to_b
        assert flow.in_frames == flow.out_frames + flow.dropped_frames


async def test_a_port_never_sees_what_it_sends(two_pods: Pods, ring: bool) -> None:
    async with kernel_wire(two_pods, ring=ring) as wire:
        with packet_socket(two_pods.a, LINK) as a, packet_socket(two_pods.b, LINK) as b:
            for _ in range(20):
                a.send(FRAME)
            assert await asyncio.to_thread(b.receive_all, 20) == [FRAME] * 20
            assert a.drain() == b.drain() == []
        statistics = wire.statistics()
        assert statistics.a_to_b.in_frames == 20
        assert statistics.b_to_a.in_frames == 0


async def test_a_link_that_does_not_exist_is_refused_by_name(two_pods: Pods) -> None:
    spec = replace(two_pods.spec(0), name="nowhere", ifindex=9999)
    with pytest.raises(DataplaneError, match=r"nowhere.*9999") as caught:
        async with KernelPorts().open(spec):
            pass
    assert caught.value.errno == errno.ENODEV


async def test_a_descriptor_that_is_no_namespace_is_refused(two_pods: Pods) -> None:
    nothing, other = os.pipe()
    try:
        with pytest.raises(DataplaneError) as caught:
            async with KernelPorts().open(replace(two_pods.spec(0), netns=nothing)):
                pass
    finally:
        os.close(nothing)
        os.close(other)
    assert caught.value.errno == errno.EINVAL


async def test_a_link_has_one_port_at_most(two_pods: Pods) -> None:
    ports = KernelPorts()
    async with ports.open(two_pods.spec(0)):
        with pytest.raises(DataplaneError) as caught:
            async with ports.open(two_pods.spec(0)):
                pass
        assert caught.value.errno == errno.EBUSY
    async with ports.open(two_pods.spec(0)) as port:
        assert port.connected


async def test_opening_may_be_cancelled_at_any_moment(two_pods: Pods) -> None:
    ports = KernelPorts(ring_rate=0)
    spec = two_pods.spec(0)

    async def open_and_close() -> None:
        async with ports.open(spec):
            await ports.look(1.0)

    for turns in range(40):
        task = asyncio.create_task(open_and_close())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
    async with ports.open(spec) as port:
        assert port.connected


async def test_the_data_plane_opens_ports_by_itself(two_pods: Pods) -> None:
    async with (
        Dataplane() as dataplane,
        dataplane.kernel_port(two_pods.spec(0)) as a,
        dataplane.kernel_port(two_pods.spec(1)) as b,
        dataplane.vwire(a, b),
    ):
        with packet_socket(two_pods.a, LINK) as first, packet_socket(two_pods.b, LINK) as second:
            first.send(FRAME)
            assert await asyncio.to_thread(second.receive) == (FRAME, Offload())
        assert a.statistics().connected


def test_the_thread_of_the_event_loop_stays_in_its_namespace(two_pods: Pods) -> None:
    def here() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    async def work() -> None:
        before = here()
        async with kernel_wire(two_pods, ring=True):
            assert here() == before
        assert here() == before

    asyncio.run(work())
    assert socket.if_nameindex() == [(1, "lo")]


async def test_a_ring_that_the_kernel_refuses_costs_nothing_but_a_warning(
    two_pods: Pods, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernel_port, "SLOT_BYTES", 17)  # not a multiple of 16: EINVAL
    async with kernel_wire(two_pods) as wire:
        for now in (1.0, 2.0, 3.0):
            await wire.ports.look(now)
        assert wire.ports.rings == 0
        await passes(wire)
    assert [record.message for record in caplog.records if "without a ring" in record.message] == [
        f"link {link} goes on without a ring: [Errno {errno.EINVAL}] {os.strerror(errno.EINVAL)}" for link in OURS
    ]


async def test_rings_are_no_more_than_allowed_and_go_back_when_links_go_quiet(two_pods: Pods) -> None:
    ports = KernelPorts(ring_rate=0, max_rings=1)
    async with ports.open(two_pods.spec(0)) as a, ports.open(two_pods.spec(1)) as b:
        for now in (1.0, 2.0, 3.0):
            await ports.look(now)
        assert ports.rings == 1
        assert (a.ring is None) != (b.ring is None)
        ports.ring_rate = 1e9
        for now in (4.0, 5.0, 6.0, 7.0):
            await ports.look(now)
        assert ports.rings == 0
        assert a.ring is b.ring is None
