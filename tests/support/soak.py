"""Traffic of every kind for as long as one likes, while vWires come and go: do the books balance, does anything grow?

    make soak                                (ten minutes, as root)
    python -m tests.support.soak SECONDS     (in a network namespace of its own)

```
 pod ── kernel vWire ── forwarder ══ memif ══ application ══ memif ══ forwarder ── kernel vWire ── pod
   TCP both ways and UDP both ways, numbered, through both forwarders, for all of the time
 and beside it, on each forwarder, one after the other and several at once:
   a Request from a pod, kernel or memif; frames of 60 bytes to the MTU and TCP and UDP super-frames, each
   compared with what arrives; after a while of random length the Close
```

Meanwhile vWires are moved from worker to worker, by their loads and beside that at random. Every vWire that ends is
booked: frames received = frames sent + drops by reason. In the end nothing may be left that was not there before, and
memory may not have grown.
"""

import asyncio
import logging
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from forwarder.api import constants
from forwarder.dataplane import Dataplane, KernelPortSpec, MemifPortSpec, Mode, Port, Role, Vwire, VwireStatistics
from forwarder.dataplane.running_task import running_task
from forwarder.netns import Netns
from tests.support.blackout import blackout
from tests.support.domain import Domain, domain, ping, pod
from tests.support.leaks import leaks, snapshot
from tests.support.netns import Netns as Shell
from tests.support.netns import isolate_process
from tests.support.superframe import SuperFrame, super_frame
from tests.support.transfer import transfer
from tests.support.vwire_ends import WINDOW, End, Ends, RawMemifEnd, carry, vwire_ends

WORKERS = 2
CHURNERS = 3
"""Of each forwarder."""
THREADS = 32
LONGEST_SESSION_S = 8.0
TRANSFER_BYTES = 8 << 20
MOVE_S = 0.05
MTU = 1500
SAMPLE_S = 2.0
SETTLED_S = 120.0
"""A run at least so long says something about memory."""
GROWTH = 1.1
"""How much more may be resident in the last quarter than in the second."""
HEADER = bytes.fromhex("02000000000b 02000000000a 88b5")


@dataclass(kw_only=True)
class Ledger:
    """What the workers have counted for all vWires that have ended, and what the ends have seen."""

    vwires: int = 0
    frames_in: int = 0
    frames_out: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    unbalanced: list[VwireStatistics] = field(default_factory=list)
    kernel_missed: int = 0
    """Frames that the kernel had no room to keep for us: no vWire has received them."""
    moves: int = 0
    compared: int = 0
    """Frames that were compared at their destination."""
    super_frames: int = 0
    tcp_bytes: int = 0
    datagrams: int = 0
    datagrams_lost: int = 0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Time in seconds, vWires so far, resident bytes."""

    def book(self, seen: VwireStatistics) -> None:
        """Adds a vWire that no worker runs any more."""
        self.vwires += 1
        for flow in (seen.a_to_b, seen.b_to_a):
            self.frames_in += flow.in_frames
            self.frames_out += flow.out_frames
            self.drops.update(flow.drops)
        if any(flow.in_frames != flow.out_frames + flow.dropped_frames for flow in (seen.a_to_b, seen.b_to_a)):
            self.unbalanced.append(seen)

    def floor_mib(self, quarter: int) -> float:
        """The least that was resident in a quarter of the time, 0 to 3: sessions come and go, a leak stays."""
        n = len(self.samples)
        part = self.samples[quarter * n // 4 : (quarter + 1) * n // 4] or self.samples[-1:]
        return min(rss for _, _, rss in part) / 2**20

    @property
    def wrong(self) -> list[str]:
        """What contradicts the books."""
        found = [f"unbalanced: {seen}" for seen in self.unbalanced]
        if self.datagrams_lost > self.kernel_missed + sum(self.drops.values()):
            found.append(f"{self.datagrams_lost} UDP datagrams lost that nobody has counted")
        return found


class BookedDataplane(Dataplane):
    """A data plane whose vWires are booked when they end."""

    def __init__(self, ledger: Ledger, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self._ledger = ledger

    @asynccontextmanager
    async def vwire(self, a: Port, b: Port, *, name: str = "") -> AsyncIterator[Vwire]:
        made: list[Vwire] = []
        try:
            async with super().vwire(a, b, name=name) as wire:
                made.append(wire)
                yield wire
        finally:
            for wire in made:
                self._ledger.book(wire.statistics())

    @asynccontextmanager
    async def kernel_port(self, spec: KernelPortSpec) -> AsyncIterator[Port]:
        async with super().kernel_port(spec) as port:
            try:
                yield port
            finally:
                self._ledger.kernel_missed += port.statistics().missed

    @asynccontextmanager
    async def moving(self, rng: random.Random) -> AsyncIterator[None]:
        """Moves vWires about, beside what their loads ask for."""

        async def work() -> None:
            while True:
                await asyncio.sleep(MOVE_S)
                if wires := self._placement.wires:
                    await self._placement.move(rng.choice(wires), rng.choice(self._controls))

        async with running_task(work(), "moves"):
            yield
        self._ledger.moves += self.statistics().moves


# --- Frames of a session --------------------------------------------------------------------


def frames_of(rng: random.Random, payload: str) -> list[bytes]:
    """Makes a round of frames, short and long ones."""
    lengths = [rng.choice((60, 60, 60, 61, 590, MTU + 14)) for _ in range(rng.randrange(1, 2 * WINDOW))]
    if payload == constants.IP:
        head = [b"\x45\0" + (length - 14).to_bytes(2, "big") + bytes(5) + b"\xfd" for length in lengths]
        return [one + rng.randbytes(length - 14 - len(one)) for one, length in zip(head, lengths, strict=True)]
    return [HEADER + rng.randbytes(length - len(HEADER)) for length in lengths]


def super_frames_of(rng: random.Random, source: End) -> Iterator[SuperFrame]:
    """Makes what a stack hands to its link at once, and the frames it stands for."""
    macs = source.framed or HEADER[:12]
    ether = Ether(dst=macs[:6].hex(":"), src=macs[6:12].hex(":"))
    for upper in (TCP(sport=5, dport=6, seq=rng.getrandbits(32), flags="PA"), UDP(sport=5, dport=6)):
        packet = ether / IP(src="10.9.9.1", dst="10.9.9.2", id=rng.getrandbits(16)) / upper
        yield super_frame(packet, rng.randbytes(rng.randrange(2000, 20000)), 1200)


def exchange(ends: Ends, payload: str, rng: random.Random, until: float, ledger: Ledger, *, kernel: bool) -> None:
    """Compares frames both ways until the time has come, in a thread; at least one round."""
    while True:
        for source, sink in ((ends.client, ends.endpoint), (ends.endpoint, ends.client)):
            ledger.compared += carry(source, sink, frames_of(rng, payload))
        if kernel:
            for one in super_frames_of(rng, ends.client):
                carry_super_frame(ends.client, ends.endpoint, one, payload)
                ledger.super_frames += 1
        if time.monotonic() >= until:
            return
        time.sleep(0.005)


def carry_super_frame(source: End, sink: End, one: SuperFrame, payload: str) -> None:
    """Sends a super-frame and compares what arrives with its segments."""
    assert source.io.write([(one.frame, one.offload)]) == 1
    skip = 14 if payload == constants.IP else 0
    expected = [segment[skip:] for segment in one.segments]
    arrived: list[bytes] = []
    deadline = time.monotonic() + 10
    while len(arrived) < len(expected):
        assert time.monotonic() < deadline, f"{len(arrived)} of {len(expected)} segments arrived"
        if not (frames := sink.receive()):
            sink.wait(0.1)
        arrived += frames
    assert arrived == expected


# --- What goes on ---------------------------------------------------------------------------


@dataclass(kw_only=True)
class Soak:
    """One run."""

    ledger: Ledger
    until: float
    rng: random.Random
    threads: ThreadPoolExecutor
    process: psutil.Process = field(default_factory=psutil.Process)

    async def churn(self, number: int, mesh: Domain, raw: RawMemifEnd, settling: asyncio.Lock) -> None:
        """One session after the other on one forwarder. `settling` is held while the ends of one are looked for."""
        loop, session = asyncio.get_running_loop(), 0
        with pod() as netns:
            while time.monotonic() < self.until:
                session += 1
                client = self.rng.choice(("kernel", "memif"))
                stay_s = self.rng.choice((*[0.0] * 10, self.rng.random(), LONGEST_SESSION_S * self.rng.random()))
                async with AsyncExitStack() as stack:
                    async with settling:
                        ends = await stack.enter_async_context(
                            vwire_ends(mesh, netns, raw, client=client, name=f"s{number}-{session}")
                        )
                    end = min(self.until, time.monotonic() + stay_s)
                    kernel, rng = client == "kernel", random.Random(self.rng.random())
                    work = partial(exchange, ends, mesh.payload, rng, end, self.ledger, kernel=kernel)
                    await loop.run_in_executor(self.threads, work)

    async def stream(self, near: Shell, far: Shell, near_address: str, far_address: str) -> None:
        """TCP both ways, with pauses: there are two CPUs."""
        while time.monotonic() < self.until:
            await transfer(near, far, socket.AF_INET, far_address, TRANSFER_BYTES)
            await transfer(far, near, socket.AF_INET, near_address, TRANSFER_BYTES)
            self.ledger.tcp_bytes += 2 * TRANSFER_BYTES
            await asyncio.sleep(0.3)

    async def datagrams(self, near: Shell, far: Shell, near_address: str, far_address: str) -> None:
        """UDP both ways, numbered."""
        async with blackout(near, far, near_address, far_address) as report:
            await asyncio.sleep(max(0.0, self.until - time.monotonic()))
        for way in (report.forth, report.back):
            self.ledger.datagrams += way.sent
            self.ledger.datagrams_lost += way.lost
            assert not way.duplicated
            assert not way.reordered

    async def watch(self) -> None:
        """Looks at the memory now and then."""
        while True:
            self.ledger.samples.append((time.monotonic(), self.ledger.vwires, self.process.memory_info().rss))
            await asyncio.sleep(SAMPLE_S)


async def soak(directory: Path, seconds: float, seed: int) -> Ledger:
    """Runs it; raises AssertionError at the first frame that is not what it should be."""
    ledger, rng = Ledger(), random.Random(seed)
    for name in ("near", "far"):
        (directory / name).mkdir()
    near_plane, far_plane = (BookedDataplane(ledger, workers=WORKERS) for _ in range(2))
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(THREADS, "soak"))
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        application = await stack.enter_async_context(BookedDataplane(ledger, workers=1))
        raw = RawMemifEnd(application.memif_port)
        near = await stack.enter_async_context(
            domain(directory / "near", endpoint="MEMIF", memif=raw, datapath="userspace", dataplane=near_plane)
        )
        far = await stack.enter_async_context(
            domain(directory / "far", payload="IP", datapath="userspace", dataplane=far_plane)
        )
        ends = await stack.enter_async_context(chain(near, raw, application, directory))
        run = Soak(ledger=ledger, until=time.monotonic() + seconds, rng=rng, threads=threads)
        for plane in (near_plane, far_plane):
            await stack.enter_async_context(plane.moving(rng))
        await stack.enter_async_context(running_task(run.watch(), "samples"))
        async with asyncio.TaskGroup() as group:
            group.create_task(run.stream(*ends))
            group.create_task(run.datagrams(*ends))
            for mesh in (near, far):
                settling = asyncio.Lock()
                for number in range(CHURNERS):
                    group.create_task(run.churn(number, mesh, raw, settling))
    return ledger


@asynccontextmanager
async def chain(
    near: Domain, raw: RawMemifEnd, application: Dataplane, directory: Path
) -> AsyncIterator[tuple[Shell, Shell, str, str]]:
    """A pod, two forwarders with an application between them, and another pod, with their addresses on the way."""
    (directory / "last").mkdir()
    with ExitStack() as pods:
        netns: Netns = pods.enter_context(pod())
        async with (
            domain(directory / "last", datapath="userspace") as last,
            near.vwire(netns) as vwire,
            last.vwire(near.endpoint_netns, "memif") as onward,
        ):
            # Both endpoints gave the first addresses that they have.
            assert (vwire.addresses, vwire.peers) == (onward.addresses, onward.peers)
            spec = MemifPortSpec(
                role=Role.CLIENT, address=onward.socket, netns=near.endpoint_netns.fileno(), mode=Mode.ETHERNET
            )
            async with application.memif_port(spec) as port, application.vwire(raw.opened[0], port):
                await port.wait_connected()
                await raw.opened[0].wait_connected()
                plain = [address.partition("/")[0] for address in (vwire.addresses[0], vwire.peers[0])]
                # The forwarders' ends connect a moment later: so that nobody waits for ARP to try again.
                assert await ping(netns, plain[1]) > 0
                yield Shell(netns.fileno()), last.endpoint_pod, plain[0], plain[1]


def main(seconds: float) -> None:
    """Runs it and tells; exits with 1 when something is wrong."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"{seconds:g} s with seed {seed}", flush=True)
    before = snapshot()
    with tempfile.TemporaryDirectory() as directory:
        ledger = asyncio.run(soak(Path(directory), seconds, seed))
    left = leaks(before)
    drops = sum(ledger.drops.values())
    print(
        f"vWires {ledger.vwires}, moves between workers {ledger.moves}\n"
        f"frames received {ledger.frames_in} = sent {ledger.frames_out} + dropped {drops} {dict(ledger.drops)}; "
        f"missed by the kernel {ledger.kernel_missed}\n"
        f"compared at their destination: {ledger.compared} frames, {ledger.super_frames} super-frames, "
        f"{ledger.tcp_bytes >> 20} MiB of TCP; UDP {ledger.datagrams}, {ledger.datagrams_lost} lost"
    )
    start = ledger.samples[0][0]
    for at, vwires, rss in ledger.samples[:: max(1, len(ledger.samples) // 10)] + ledger.samples[-1:]:
        print(f"  {at - start:6.0f} s  {vwires:6} vWires  {rss / 2**20:7.1f} MiB resident")
    floors = [ledger.floor_mib(quarter) for quarter in range(4)]
    print(f"least resident in each quarter: {', '.join(f'{floor:.1f}' for floor in floors)} MiB")
    wrong = ledger.wrong + [f"left behind: {line}" for line in left]
    if seconds >= SETTLED_S and floors[3] > GROWTH * floors[1]:
        wrong.append("memory has grown")
    for line in wrong:
        print(f"WRONG: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    isolate_process()
    logging.basicConfig(level=logging.ERROR)
    main(float(sys.argv[1]))
