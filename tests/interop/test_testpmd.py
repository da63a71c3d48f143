"""DPDK's testpmd as memif peer, in both roles, through a whole vWire.

A peer of our own (tests.support.memif_peer) sends frames into one end; testpmd, at the other, echoes
every one; they have to come back byte for byte and in order.

    raw peer <-> our port | vWire | our port <-> testpmd
"""

import asyncio
import contextlib
import os
import random
import secrets

import pytest

from forwarder.dataplane import Dataplane
from forwarder.dataplane.spec import MemifPortSpec, Role
from tests.support.memif_peer import ClientPeer
from tests.support.testpmd import running_testpmd

SIZES = (60, 64, 1514, 2048, 2049, 4096, 9000)


def frames(count, sizes=SIZES, seed=1):
    """Ethernet frames of an EtherType that nobody interprets."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        made.append(b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\xb5" + rng.randbytes(size - 14))
    return made


def name(what):
    return f"@/vwire/{what}-{os.getpid()}-{secrets.token_hex(3)}"


@contextlib.asynccontextmanager
async def wire_to(spec):
    """A vWire between a raw peer and the port that `spec` describes; yields (raw peer, port, vWire)."""
    near = MemifPortSpec(role=Role.SERVER, address=name("near"), name="near")
    async with (
        Dataplane(stall_limit_ms=10_000) as dataplane,  # testpmd posts its buffers when it gets a CPU
        dataplane.memif_port(near) as a,
        dataplane.memif_port(spec) as b,
        dataplane.vwire(a, b, name="interop") as vwire,
    ):
        with await asyncio.to_thread(ClientPeer, near.address) as peer:
            await a.wait_connected()
            yield peer, b, vwire


@contextlib.asynccontextmanager
async def started(vdev, **options):
    """testpmd, without holding up the event loop while it starts and ends."""
    with contextlib.ExitStack() as stack:
        running = await asyncio.to_thread(stack.enter_context, running_testpmd(vdev, **options))
        try:
            yield running
        finally:
            await asyncio.to_thread(stack.close)


def vdev(role, address, *, log2=10, **more):
    place = f"socket={address[1:]}" if address.startswith("@") else f"socket={address},socket-abstract=no"
    words = [
        f"role={role}",
        place,
        f"rsize={log2}",
        *(f"{key.replace('_', '-')}={value}" for key, value in more.items()),
    ]
    return ",".join(words)


async def echo(peer, sent, window=64):
    """Sends and collects; says so when something is missing or different."""
    got = await asyncio.to_thread(peer.exchange, sent, 8.0, window)
    assert len(got) == len(sent)
    wrong = [number for number, (a, b) in enumerate(zip(sent, got, strict=True)) if a != b]
    assert wrong == []


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing to wait on: the state is the port's
            await asyncio.sleep(0.005)


async def settled(running):
    """Stops testpmd's forwarding: its threads touch memory that is being unmapped otherwise."""
    await asyncio.to_thread(running.command, "stop")


async def counts_match(vwire, count):
    """Every frame was counted, none dropped; the last can be seen before the worker has counted them."""

    def counted():
        statistics = vwire.statistics()
        return [(flow.in_frames, flow.out_frames, dict(flow.drops)) for flow in (statistics.a_to_b, statistics.b_to_a)]

    with contextlib.suppress(TimeoutError):
        await until(lambda: counted() == [(count, count, {})] * 2)
    assert counted() == [(count, count, {})] * 2


@pytest.mark.parametrize("log2", [6, 10, 14])
async def test_frames_of_all_sizes_come_back_from_a_testpmd_client(log2):
    spec = MemifPortSpec(role=Role.SERVER, address=name("server"), secret=b"hush", interface_id=7)
    async with (
        wire_to(spec) as (peer, port, vwire),
        started(vdev("client", spec.address, id=7, secret="hush", log2=log2)) as running,
    ):
        await port.wait_connected()
        # More than a lap of the ring: testpmd leaves flags behind in slots that it reuses.
        sent = frames(700)
        await echo(peer, sent, window=8)
        await counts_match(vwire, len(sent))
        await settled(running)


@pytest.mark.parametrize("log2", [8, 10, 14])
async def test_frames_of_all_sizes_come_back_from_a_testpmd_server(log2):
    address = name("peer")
    async with started(vdev("server", address, id=7, secret="hush")) as running:
        spec = MemifPortSpec(role=Role.CLIENT, address=address, secret=b"hush", interface_id=7, log2_ring_size=log2)
        async with wire_to(spec) as (peer, port, vwire):
            await port.wait_connected()
            sent = frames(700)
            await echo(peer, sent, window=16)
            await counts_match(vwire, len(sent))
            await settled(running)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_ring_indices_may_wrap(role):
    address = name("wrap")
    ours = Role.SERVER if role == "client" else Role.CLIENT
    spec = MemifPortSpec(role=ours, address=address, log2_ring_size=8)
    async with wire_to(spec) as (peer, port, vwire), started(vdev(role, address, log2=8)) as running:
        await port.wait_connected()
        sent = frames(67_000, sizes=(64,))
        await echo(peer, sent, window=128)
        await counts_match(vwire, len(sent))
        await settled(running)


async def test_a_server_with_four_queues_makes_do_with_one():
    # The other way round does not work: a DPDK 22.11 client uses queues beyond the rings that the
    # server takes all the same, and their rings are its first one.
    address = name("queues")
    async with (
        wire_to(MemifPortSpec(role=Role.CLIENT, address=address)) as (peer, port, vwire),
        started(vdev("server", address), queues=4) as running,
    ):
        await port.wait_connected()
        await echo(peer, frames(100))
        await counts_match(vwire, 100)
        await settled(running)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_a_socket_file_works_in_both_roles(tmp_path, role):
    address = str(tmp_path / "memif.sock")
    ours = Role.SERVER if role == "client" else Role.CLIENT
    async with (
        wire_to(MemifPortSpec(role=ours, address=address)) as (peer, port, _),
        started(vdev(role, address)) as running,
    ):
        await port.wait_connected()
        await echo(peer, frames(50))
        await settled(running)
    (tmp_path / "memif.sock").unlink(missing_ok=True)  # testpmd leaves its own when it is killed


@pytest.mark.parametrize("role", ["client", "server"])
async def test_the_peer_may_live_in_another_namespace(netns, role):
    address = name("netns")
    ours = Role.SERVER if role == "client" else Role.CLIENT
    async with (
        wire_to(MemifPortSpec(role=ours, address=address, netns=netns.fd)) as (peer, port, _),
        started(vdev(role, address), netns=netns) as running,
    ):
        await port.wait_connected()
        await echo(peer, frames(50))
        await settled(running)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_a_wrong_secret_keeps_the_link_down(role):
    address = name("secret")
    ours = Role.SERVER if role == "client" else Role.CLIENT
    async with (
        wire_to(MemifPortSpec(role=ours, address=address, secret=b"hush")) as (_, port, __),
        started(vdev(role, address, secret="guess")) as running,
    ):
        await asyncio.sleep(0.3)
        assert not port.connected
        assert not await asyncio.to_thread(running.link_up)


async def test_a_zero_copy_client_is_let_in_only_when_allowed():
    address = name("zc")
    extra = {"eal": ("--single-file-segments",)}
    spec = MemifPortSpec(role=Role.SERVER, address=address, allow_unsealed=True)
    async with (
        wire_to(spec) as (peer, port, vwire),
        started(vdev("client", address, zero_copy="yes"), **extra) as running,
    ):
        await port.wait_connected()
        sent = frames(300, sizes=(64, 1514, 2000))
        await echo(peer, sent, window=32)
        await counts_match(vwire, len(sent))
        await settled(running)
    async with (
        wire_to(MemifPortSpec(role=Role.SERVER, address=address)) as (_, port, __),
        started(vdev("client", address, zero_copy="yes"), **extra),
    ):
        await asyncio.sleep(0.3)
        assert not port.connected


async def bounce(running):
    """Takes testpmd's port down and up again, which ends its connection and begins another."""
    for command in ("stop", "port stop 0", "port start 0", "start"):
        await asyncio.to_thread(running.command, command)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_the_link_comes_back_when_the_peers_port_does(role):
    address = name("bounce")
    ours = Role.SERVER if role == "client" else Role.CLIENT
    async with (
        wire_to(MemifPortSpec(role=ours, address=address)) as (peer, port, vwire),
        started(vdev(role, address)) as running,
    ):
        await port.wait_connected()
        for round_number in range(3):
            await echo(peer, frames(100, seed=round_number))
            await counts_match(vwire, 100 * (round_number + 1))
            if round_number < 2:
                connections = port.link.connections
                await bounce(running)
                await until(lambda before=connections: port.link.connections > before)
        await settled(running)


@pytest.mark.parametrize("role", ["client", "server"])
async def test_a_killed_peer_is_noticed_and_its_successor_welcome(role):
    address = name("kill")
    ours = Role.SERVER if role == "client" else Role.CLIENT
    async with wire_to(MemifPortSpec(role=ours, address=address)) as (peer, port, vwire):
        for _ in range(2):
            async with started(vdev(role, address)) as running:
                async with asyncio.timeout(10):
                    await port.wait_connected()
                await echo(peer, frames(50))
                sending = asyncio.to_thread(peer.send, frames(200))
                await asyncio.to_thread(running.kill)
                await sending
                await until(lambda: not port.connected)
            # What was under way is gone, or echoed before the end; the next round starts clean.
            await asyncio.to_thread(peer.receive_all, 200, 0.2)
            flow = vwire.statistics().a_to_b
            assert flow.in_frames == flow.out_frames + sum(flow.drops.values())
