"""What enters a vWire at one end leaves at the other as it was, and nothing else does: whole Requests, every pair."""

import asyncio
import random
import struct
from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from tests.support.domain import domain, pod, until
from tests.support.frames import BROADCAST, SHORTEST, ip_packets, raw_frames
from tests.support.vwire_ends import RawMemifEnd, carry, vwire_ends

FRAMES = {"ETHERNET": 1_000_000, "IP": 200_000}
ANY = pytest.mark.parametrize("payload", ["ETHERNET", "IP"])
PAIRS = [(client, endpoint) for client in ("kernel", "memif") for endpoint in ("KERNEL", "MEMIF")]


@asynccontextmanager
async def two_vwires(directory, client, endpoint, payload, *, datapath="userspace", mtu_bytes=1500):
    """A vWire for frames, and another one beside it through the same forwarder, from and to the same pods."""
    raw = RawMemifEnd()
    async with domain(directory, endpoint=endpoint, payload=payload, memif=raw, datapath=datapath) as mesh:
        with pod() as netns:
            async with (
                vwire_ends(mesh, netns, raw, client=client, name="nsm-1", mtu_bytes=mtu_bytes) as wire,
                vwire_ends(mesh, netns, raw, client=client, name="nsm-2", mtu_bytes=mtu_bytes) as other,
            ):
                yield mesh, wire, other


def flows(mesh, wire):
    """Both directions' counters of a vWire."""
    (status,) = (each for each in mesh.forwarder.statistics().connections if each.origin_id == wire.connection.id)
    return status.vwire.a_to_b, status.vwire.b_to_a


async def counts_settle(mesh, wire):
    """Waits until the worker has counted what it sent."""
    seen = []

    def still() -> bool:
        seen.append(flows(mesh, wire))
        return len(seen) > 3 and seen[-1] == seen[-2] == seen[-3]

    await until(still)
    return seen[-1]


def heads() -> list[bytes]:
    """What frames begin with: each EtherType once, tagged ones, and IP of all sorts."""
    rng = random.Random(33)
    destinations = [BROADCAST, b"\x01\0\x5e\0\0\xfb", b"\x33\x33\0\0\0\1"]
    destinations += [b"\x06" + rng.randbytes(5) for _ in range(5)]

    def addresses() -> bytes:
        return rng.choice(destinations) + b"\x02" + rng.randbytes(5)

    made = [addresses() + struct.pack("!H", kind) for kind in range(0x10000)]
    made += [addresses() + struct.pack("!HHH", 0x8100, *rng.choices(range(0x10000), k=2)) for _ in range(4000)]
    for packet in packet_heads():
        kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0"
        made += [addresses() + kind + packet for _ in range(20)]
    rng.shuffle(made)
    return made


def packet_heads() -> list[bytes]:
    """What packets begin with: IPv4 and IPv6, whole and in fragments, with options, of any protocol."""
    rng = random.Random(34)
    made = []
    for _ in range(100):
        v4 = IP(src="10.9.0.1", dst="10.9.0.2", id=rng.randrange(0x10000), ttl=rng.randrange(1, 256))
        v6 = IPv6(src="2001:db8::1", dst="2001:db8::2", fl=rng.randrange(1 << 20), hlim=rng.randrange(1, 256))
        ports = {"sport": rng.randrange(0x10000), "dport": rng.randrange(0x10000)}
        made += [v4 / UDP(**ports), v4 / TCP(**ports, flags=rng.randrange(256)), v6 / UDP(**ports), v6 / TCP(**ports)]
        made += [v6 / IPv6ExtHdrFragment(offset=rng.randrange(1 << 13), m=1, nh=17, id=rng.randrange(1 << 32))]
        made += [IP(src="10.9.0.1", dst="10.9.0.2", options=b"\x94\x04\0\0", proto=rng.randrange(256))]
        made += fragment(v4 / UDP(**ports) / Raw(bytes(3000)), fragsize=1480)[:1]
    return [bytes(packet)[:40] for packet in made]


def random_frames(count: int, heads: list[bytes], shortest: int, longest: int, seed: int) -> Iterator[bytes]:
    """Frames that begin like `heads` in turn, of every length in turn, each with its number and then random bytes."""
    rng = random.Random(seed)
    noise = rng.randbytes(1 << 20)
    n_heads, n_lengths = len(heads), longest - shortest + 1
    pack = struct.Struct("!I").pack
    for number in range(count):
        head = heads[number % n_heads] + pack(number)
        length = shortest + number * 7919 % n_lengths
        at = number * 104729 % ((1 << 20) - longest)
        yield (head + noise[at : at + length - len(head)])[:length] if length > len(head) else head


@ANY
@pytest.mark.parametrize(("client", "endpoint"), PAIRS)
async def test_random_frames_arrive_unchanged_in_order_and_at_no_other_port(tmp_path, client, endpoint, payload):
    """C-33: a million frames for each pair, half each way, of every length up to the MTU and every EtherType."""
    half = FRAMES[payload] // 2
    begin, shortest, longest = (heads(), SHORTEST, 1514) if payload == "ETHERNET" else (packet_heads(), 46, 1500)
    async with two_vwires(tmp_path, client, endpoint, payload) as (mesh, wire, other):
        before, others = flows(mesh, wire), flows(mesh, other)
        sizes = []

        def counted(seed: int) -> Iterator[bytes]:
            total = 0
            for frame in random_frames(half, begin, shortest, longest, seed):
                total += len(frame)
                yield frame
            sizes.append(total)

        assert await asyncio.to_thread(carry, wire.client, wire.endpoint, counted(1)) == half
        assert await asyncio.to_thread(carry, wire.endpoint, wire.client, counted(2)) == half
        after = await counts_settle(mesh, wire)
        for was, now, size in zip(before, after, sizes, strict=True):
            assert now.in_frames - was.in_frames == now.out_frames - was.out_frames == half
            assert now.in_bytes - was.in_bytes == now.out_bytes - was.out_bytes == size
            assert now.drops == was.drops
        assert flows(mesh, other) == others
        assert other.client.io.read() == other.endpoint.io.read() == []


@ANY
@pytest.mark.parametrize(("client", "endpoint"), PAIRS)
@pytest.mark.parametrize("datapath", ["userspace", "auto"])
async def test_whatever_frames_arrive_as_they_were(tmp_path, client, endpoint, payload, datapath):
    """C-33, C-59: frames up to the MTU of 9000 as hypothesis thinks them up, whatever carries them."""
    mtu = 9000
    kinds = (
        raw_frames(mtu=mtu - 8) if payload == "ETHERNET" else ip_packets(mtu=mtu).map(lambda one: one.ljust(46, b"\0"))
    )

    async with two_vwires(tmp_path, client, endpoint, payload, datapath=datapath, mtu_bytes=mtu) as (_, wire, other):

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(st.lists(kinds, min_size=1, max_size=20))
        def check(frames):
            assert carry(wire.client, wire.endpoint, frames) == len(frames)
            assert carry(wire.endpoint, wire.client, frames) == len(frames)

        await asyncio.to_thread(check)
        assert other.client.io.read() == other.endpoint.io.read() == []
