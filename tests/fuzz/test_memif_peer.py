"""Invariant: a hostile memif peer can hurt only its own vWire.

Whatever it sends on its control channel, whatever descriptors go with it, and whatever it writes
into shared memory while frames flow: the process survives, another vWire on the same worker passes
every frame and counts it exactly, the attacked port serves the next honest peer, and nothing stays
mapped or open.

    hostile peer <-> victim port    | vWire | port <-> honest peer      under attack, both ways
    honest peer  <-> innocent ports | vWire | ports <-> honest peer     on the same worker
"""

import asyncio
import contextlib
import mmap
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from forwarder.dataplane import Dataplane, memif_link
from forwarder.dataplane.spec import MemifPortSpec, Role
from tests.support.leaks import leaks, snapshot
from tests.support.memif_peer import (
    ADD_REGION,
    ADD_RING,
    CONNECT,
    CONNECTED,
    F_SEAL_SHRINK,
    ClientPeer,
    Control,
    PeerRefused,
    Ring,
    ServerPeer,
    make_region,
    ring_bytes,
)

BUDGET = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what a live peer saw cannot be shrunk by replaying it
)
LOG2 = 8


class Attacked:
    """A data plane on a thread of its own, with a victim and an innocent vWire."""

    def __init__(self, *, role: Role, allow_unsealed: bool) -> None:
        self.address = "@/fuzz/victim"
        self.role = role
        self.port: Any = None
        self._specs = [
            MemifPortSpec(
                role=role,
                address=self.address,
                log2_ring_size=LOG2,
                allow_unsealed=allow_unsealed,
                max_frame_bytes=16384,
            ),
            *(MemifPortSpec(role=Role.SERVER, address=f"@/fuzz/{name}") for name in ("other", "left", "right")),
        ]
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="attacked")
        self._stamp = 0
        self._passed = 0

    def __enter__(self) -> "Attacked":
        self._stack = contextlib.ExitStack()
        self._thread.start()
        self._stack.callback(self._stop)
        assert self._started.wait(10)
        self.other, self.left, self.right = (
            self._stack.enter_context(ClientPeer(f"@/fuzz/{name}", log2=10)) for name in ("other", "left", "right")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.dataplane = self.port = self.victim = self.innocent = None
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # raised again by whoever waits for us
            self._failure = error

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            self.dataplane = await stack.enter_async_context(Dataplane())
            ports = [await stack.enter_async_context(self.dataplane.memif_port(spec)) for spec in self._specs]
            self.port = ports[0]
            self.victim = await stack.enter_async_context(self.dataplane.vwire(ports[0], ports[1], name="victim"))
            self.innocent = await stack.enter_async_context(self.dataplane.vwire(ports[2], ports[3], name="innocent"))
            self._started.set()
            await self._ending.wait()

    def _stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def send_at_victim(self) -> None:
        """Gives the victim something to send to the hostile peer: short, long and chained frames."""
        self.other.send([bytes(size) for size in (60, 1514, 9000)] * 2)
        self.other.receive()

    def check(self) -> None:
        """The innocent vWire passes and counts everything."""
        for sender, receiver in ((self.left, self.right), (self.right, self.left)):
            sent = [os.urandom(size) for size in (60, 1514, 5000)]
            sender.send_all(sent)
            assert receiver.receive_all(len(sent)) == sent
        self._passed += 3
        # The last frames can be seen before the worker has counted them.
        deadline = time.monotonic() + 2
        while (counted := self._counted()) != [(self._passed, self._passed, {})] * 2:
            assert time.monotonic() < deadline, (counted, self._passed)
            time.sleep(0.0005)

    def _counted(self) -> list[tuple[int, int, dict[str, int]]]:
        statistics = self.innocent.statistics()
        return [(flow.in_frames, flow.out_frames, dict(flow.drops)) for flow in (statistics.a_to_b, statistics.b_to_a)]

    def check_victim(self) -> None:
        """The victim serves an honest peer, both ways, and its counters add up."""
        with self.honest_peer() as honest:
            for sender, receiver in ((honest, self.other), (self.other, honest)):
                self._stamp += 1
                mark = b"honest" + self._stamp.to_bytes(8, "big")
                sent = [mark + os.urandom(size) for size in (60, 1500, 9000)]
                sender.send_all(sent)
                got: list[bytes] = []
                end = time.monotonic() + 5
                while len(got) < len(sent) and time.monotonic() < end:
                    # What the attack has left on the way is let through, and is not ours.
                    got += [frame for frame in receiver.receive_all(1, 0.5) if frame.startswith(mark)]
                assert got == sent
            deadline = time.monotonic() + 2
            while not self._adds_up():
                assert time.monotonic() < deadline, self.victim.statistics()
                time.sleep(0.002)

    def wait_idle(self) -> None:
        """Waits until nothing is mapped but what the three honest peers share with us, from both sides."""
        deadline = time.monotonic() + 3
        while sum(count for name, count in snapshot().mappings.items() if "memfd:" in name) > 6:
            assert time.monotonic() < deadline, snapshot().mappings
            time.sleep(0.01)

    def _adds_up(self) -> bool:
        statistics = self.victim.statistics()
        return all(
            flow.in_frames == flow.out_frames + sum(flow.drops.values())
            for flow in (statistics.a_to_b, statistics.b_to_a)
        )

    @contextlib.contextmanager
    def honest_peer(self) -> Iterator[ClientPeer | ServerPeer]:
        if self.role is Role.SERVER:
            with ClientPeer(self.address, log2=LOG2) as peer:
                yield peer
        else:
            with ServerPeer(self.address) as peer:
                yield peer.accept()


@contextlib.contextmanager
def attacked(*, role: Role = Role.SERVER, allow_unsealed: bool = False) -> Iterator[Attacked]:
    """Runs an attack's whole surroundings, and finds what is left of them."""
    before = snapshot()
    with Attacked(role=role, allow_unsealed=allow_unsealed) as running:
        running.check()
        running.check_victim()
        running.wait_idle()
        idle = snapshot()
        yield running
        running.check_victim()
        running.check()
        running.wait_idle()
        assert leaks(idle) == []
    assert leaks(before) == []


# --- The control channel -----------------------------------------------------------------------


def _pipe_end() -> int:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.close(reading)
    return writing


def _file() -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(40000)
        return os.dup(file.fileno())


def _read_only() -> int:
    fd = make_region(40000)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(fd)


FDS: dict[str, Callable[[], int]] = {
    "memfd": lambda: make_region(40000),
    "memfd without seals": lambda: make_region(40000, seals=0),
    "memfd too short": lambda: make_region(4096),
    "empty memfd": lambda: make_region(0, seals=0),
    "eventfd": lambda: os.eventfd(0, os.EFD_CLOEXEC),
    "eventfd near its end": lambda: os.eventfd(0xFFFFFFFF, os.EFD_CLOEXEC | os.EFD_SEMAPHORE),
    "pipe": _pipe_end,
    "socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
    "file": _file,
    "directory": lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
    "device": lambda: os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC),
    "path": lambda: os.open("/", os.O_PATH | os.O_CLOEXEC),
    "procfs": lambda: os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC),
    "read-only memfd": _read_only,
}


@dataclass(frozen=True)
class Say:
    """One message and the kinds of descriptors that go with it."""

    data: bytes
    fds: tuple[str, ...] = ()


def say(kind: int, layout: str, *values: int | bytes, fds: tuple[str, ...] = ()) -> Say:
    return Say((struct.pack("<H", kind) + struct.pack("<" + layout, *values)).ljust(128, b"\0"), fds)


INIT = say(3, "HIB", 0x200, 0, 0)
REGION = say(ADD_REGION, "HQ", 0, 40000, fds=("memfd",))
RING_IN = say(ADD_RING, "HHHIBH", 1, 0, 0, 0, LOG2, 0, fds=("eventfd",))
RING_OUT = say(ADD_RING, "HHHIBH", 0, 0, 0, 8192, LOG2, 0, fds=("eventfd",))
GO = say(CONNECT, "32s", b"peer")

some_fds = st.lists(st.sampled_from(sorted(FDS)), max_size=3).map(tuple)
some_messages = st.one_of(
    st.sampled_from([INIT, REGION, RING_IN, RING_OUT, GO]),
    st.builds(lambda what, fds: Say(what.data, fds), st.sampled_from([REGION, RING_IN, RING_OUT, GO, INIT]), some_fds),
    st.builds(
        lambda index, size, fds: say(ADD_REGION, "HQ", index, size, fds=fds),
        st.integers(0, 2),
        st.sampled_from([1, 4095, 4097, 40000, 1 << 30, (1 << 30) + 1, (1 << 64) - 1]),
        some_fds,
    ),
    st.builds(
        lambda way, region, offset, log2, fds: say(ADD_RING, "HHHIBH", way, 0, region, offset, log2, 0, fds=fds),
        st.integers(0, 1),
        st.integers(0, 2),
        st.sampled_from([0, 16, 8192, 36000, 2**32 - 16]),
        st.sampled_from([1, 5, LOG2, 14]),
        some_fds,
    ),
    st.builds(Say, st.binary(min_size=1, max_size=200), some_fds),
)


def talk(address: str, script: list[Say], answered: int) -> None:
    """Connects, says everything, waiting for the first `answered` answers, and leaves."""
    control = Control.connect(address)
    opened: list[int] = []
    try:
        with contextlib.suppress(PeerRefused, OSError):
            control.receive()
            for number, what in enumerate(script):
                fds = [FDS[kind]() for kind in what.fds]
                opened += fds
                control.send_raw(what.data, fds)
                if number < answered:
                    control.receive()
    finally:
        control.close()
        for fd in opened:
            os.close(fd)


def test_a_hostile_conversation_hurts_nobody_else() -> None:
    with attacked() as running:

        @BUDGET
        @given(st.integers(0, 5), st.lists(some_messages, max_size=8), st.integers(0, 6))
        @example(4, [GO], 0)
        @example(1, [Say(REGION.data, ("file",)), RING_IN, RING_OUT, GO], 9)
        @example(2, [Say(RING_IN.data, ("pipe",)), RING_OUT, GO], 9)
        @example(1, [Say(REGION.data, ("read-only memfd",)), RING_IN, RING_OUT, GO], 9)
        @example(1, [Say(REGION.data, ("memfd",) * 200)], 0)
        def attack(honest: int, script: list[Say], answered: int) -> None:
            talk(running.address, [INIT, REGION, RING_IN, RING_OUT, GO][:honest] + script, answered)
            running.check()

        attack()


def test_a_thousand_connections_that_say_nothing_hurt_nobody() -> None:
    with attacked() as running:
        crowd = []
        for _ in range(1000):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.connect(b"\0" + running.address[1:].encode())
            crowd.append(sock)
        running.check_victim()
        running.check()
        for sock in crowd:
            sock.close()


# --- The shared memory -------------------------------------------------------------------------

EDGES_16 = st.sampled_from([0, 1, 2, 63, 64, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFF]) | st.integers(0, 0xFFFF)
EDGES_32 = st.sampled_from([0, 1, 13, 14, 60, 2048, 2049, 65535, 65536, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Scribble:
    """One thing done to shared memory. `ring`: to the server, or to the client."""

    to_server: bool
    what: str
    slot: int = 0
    flags: int = 0
    region: int = 0
    length: int = 0
    offset: int = 0


ways = st.booleans()
scribbles = st.one_of(
    st.builds(
        Scribble,
        to_server=ways,
        what=st.just("descriptor"),
        slot=st.integers(0, 8),
        flags=st.sampled_from([0, 1, 2, 0xFFFF]),
        region=st.sampled_from([0, 0, 0, 1, 16, 0xFFFF]),
        length=EDGES_32,
        offset=EDGES_32,
    ),
    st.builds(
        Scribble,
        to_server=ways,
        what=st.just("all descriptors"),
        flags=st.integers(0, 1),
        region=st.sampled_from([0, 1]),
        length=EDGES_32,
        offset=EDGES_32,
    ),
    st.builds(Scribble, to_server=ways, what=st.sampled_from(["head", "tail", "flags", "cookie"]), slot=EDGES_16),
    st.builds(Scribble, to_server=ways, what=st.sampled_from(["more head", "more tail"]), slot=st.integers(1, 300)),
    st.builds(Scribble, to_server=ways, what=st.sampled_from(["kick", "wait", "frames", "noise"])),
)


def scribble(peer: ClientPeer | ServerPeer, running: Attacked, step: Scribble) -> None:
    ring: Ring = peer.to_server if step.to_server else peer.to_client
    match step.what:
        case "descriptor" | "all descriptors":
            slots = range(ring.size) if step.what == "all descriptors" else [step.slot]
            for slot in slots:
                ring.write(slot, flags=step.flags, region=step.region, length=step.length, offset=step.offset)
        case "head":
            ring.head = step.slot
        case "tail":
            ring.tail = step.slot
        case "more head":
            ring.head = ring.head + step.slot
        case "more tail":
            ring.tail = ring.tail + step.slot
        case "flags":
            ring.flags = step.slot
        case "cookie":
            ring.start(cookie=step.slot, flags=step.slot)
        case "kick":
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(ring.kick, 0xFFFFFFFFFFFFFFF0)
        case "wait":
            time.sleep(0.002)
        case "frames":
            running.send_at_victim()
        case "noise":
            peer.maps[0][: 2 * ring_bytes(LOG2)] = os.urandom(2 * ring_bytes(LOG2))
    os.eventfd_read(ring.kick) if step.what == "kick" and not step.to_server else None


def ends(*, length: int, offset: int, flags: int = 0) -> list[Scribble]:
    """A ring full of the same descriptor, published at once."""
    return [
        Scribble(True, "all descriptors", flags=flags, length=length, offset=offset),
        Scribble(True, "more head", 256),
        Scribble(True, "kick"),
        Scribble(True, "wait"),
    ]


REGRESSIONS = [
    ends(length=2048, offset=2**32 - 1024),
    ends(length=2**32 - 1, offset=2**32 - 1),
    ends(length=0, offset=0),
    ends(length=0, offset=0, flags=1),
    ends(length=64, offset=0, flags=1),
    ends(length=60000, offset=0, flags=1),
    [Scribble(True, "more head", 257), Scribble(True, "kick"), Scribble(True, "wait")],
    [Scribble(False, "head", 0x8000), Scribble(False, "frames"), Scribble(False, "wait")],
    [
        Scribble(False, "all descriptors", length=1, offset=2**32 - 1),
        Scribble(False, "frames"),
        Scribble(False, "wait"),
    ],
    [Scribble(False, "all descriptors", length=0), Scribble(False, "frames"), Scribble(False, "wait")],
    [Scribble(False, "all descriptors", length=1), Scribble(False, "frames"), Scribble(False, "wait")],
]


def with_regressions(attack: Callable[[list[Scribble]], None]) -> Callable[[list[Scribble]], None]:
    for script in REGRESSIONS:
        attack = example(script)(attack)
    return attack


def test_a_client_that_scribbles_into_its_memory_hurts_nobody_else() -> None:
    with attacked() as running:

        @BUDGET
        @given(st.lists(scribbles, max_size=12))
        @with_regressions
        def attack(script: list[Scribble]) -> None:
            with ClientPeer(running.address, log2=LOG2) as peer:
                for step in script:
                    scribble(peer, running, step)
                running.check()
            running.check_victim()

        attack()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ([Scribble(True, "more head", 257), Scribble(True, "kick")], "index"),
        ([*ends(length=2**32 - 1, offset=2**32 - 1)], "descriptors"),
        ([Scribble(False, "all descriptors", length=1, offset=2**32 - 1), Scribble(False, "frames")], "buffer"),
    ],
    ids=["index", "descriptors", "buffer"],
)
def test_a_peer_that_breaks_the_rules_in_memory_is_told_and_sent_away(script: list[Scribble], told: str) -> None:
    with attacked() as running:
        with ClientPeer(running.address, log2=LOG2) as peer:
            for step in script:
                scribble(peer, running, step)
            with pytest.raises(PeerRefused, match=told):
                peer.control.receive()
        running.check()


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets our client come back at once to servers that have sent it away again and again."""
    monkeypatch.setattr(memif_link, "RETRY_LONGEST_S", 0.02)


def test_a_server_that_scribbles_into_our_memory_hurts_nobody_else(short_retries: None) -> None:
    with attacked(role=Role.CLIENT) as running:

        @BUDGET
        @given(st.lists(scribbles, max_size=12))
        @with_regressions
        def attack(script: list[Scribble]) -> None:
            with ServerPeer(running.address) as peer:
                peer.accept()
                for step in script:
                    scribble(peer, running, step)
                running.check()
            running.check_victim()

        attack()


@pytest.mark.parametrize("size", [0, 1, 4096, 12288])
@pytest.mark.parametrize("busy", [False, True])
def test_memory_truncated_under_our_hands_kills_only_that_port(size: int, busy: bool) -> None:
    with attacked(allow_unsealed=True) as running:
        for _ in range(3):
            with ClientPeer(running.address, log2=LOG2, seals=0, buffer_region=1) as peer:
                if busy:
                    peer.send([bytes(1514)] * 100)
                    running.send_at_victim()
                for fd in peer.fds[:2]:
                    os.ftruncate(fd, size)
                # The peer's own mapping is gone too: from here on it only wakes us, or sends nothing.
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(peer.to_server.kick, 1)
                running.send_at_victim()
                running.check()
                # The other end's frames reach for the truncated ring at the latest now.
                end = time.monotonic() + 3
                while running.port.connected and time.monotonic() < end:
                    running.send_at_victim()
                    time.sleep(0.01)
                assert not running.port.connected or size >= 2 * ring_bytes(LOG2)
        running.check_victim()


def test_memory_that_could_be_truncated_is_refused_without_permission() -> None:
    with attacked() as running:
        with pytest.raises(PeerRefused, match="truncated"):
            ClientPeer(running.address, log2=LOG2, seals=0)
        assert mmap.PAGESIZE  # nothing of it was mapped: the surroundings count mappings
        with ClientPeer(running.address, log2=LOG2, seals=F_SEAL_SHRINK):
            pass


def test_an_indecisive_server_is_followed_no_faster_than_it_talks(short_retries: None) -> None:
    """A server that says CONNECTED before anything else, over and over, gets nothing but our goodbye."""
    with attacked(role=Role.CLIENT) as running:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(b"\0" + running.address[1:].encode())
        listener.listen(8)
        listener.settimeout(5)
        for _ in range(5):
            sock, _ = listener.accept()
            control = Control(sock)
            control.send(CONNECTED, b"early")
            with pytest.raises(PeerRefused):
                control.receive()
            control.close()
            running.check()
        listener.close()
