"""A memif peer written a second time, in plain Python, to test the real one against.

Both roles, from memif.h of VPP (protocol 2.0) and shares no code with the forwarder. It blocks, so
a test that runs an event loop calls it through `asyncio.to_thread`. Every step can be done by
hand, in any order and wrongly: `Control` sends whatever it is given, `Ring` lets every byte be
written.

Shared indices are read and written as elements of a 16-bit memoryview: one access each, where
struct.pack_into would show the other side half-written numbers.
"""

import array
import contextlib
import fcntl
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Self

ACK, HELLO, INIT, ADD_REGION, ADD_RING, CONNECT, CONNECTED, DISCONNECT = range(1, 9)
COOKIE = 0x03E31F20
NEXT = 1
MASK_INT = 1
DESCRIPTOR = struct.Struct("<HHIII")
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2


def unix_address(address: str) -> str | bytes:
    """Returns `@name` as an abstract address of exactly its length, a path as it is."""
    return b"\0" + address[1:].encode() if address.startswith("@") else address


class PeerRefused(Exception):
    """The other side sent DISCONNECT, or closed (empty reason)."""


class Control:
    """The control channel, message by message."""

    def __init__(self, sock: socket.socket, timeout_s: float = 5.0) -> None:
        self.sock = sock
        sock.settimeout(timeout_s)

    @classmethod
    def connect(cls, address: str, timeout_s: float = 5.0) -> Self:
        """Connects, waiting for a listener for as long as the timeout."""
        deadline = time.monotonic() + timeout_s
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                sock.connect(unix_address(address))
                return cls(sock, timeout_s)
            except (ConnectionRefusedError, FileNotFoundError):
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        self.sock.close()

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Sends anything."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def send(self, kind: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Sends a message of the right length."""
        self.send_raw(struct.pack("<H", kind) + body.ljust(126, b"\0"), fds)

    def receive(self) -> tuple[int, bytes, list[int]]:
        """Returns type, body and descriptors; raises PeerRefused for DISCONNECT and the end."""
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(256, 1024, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise PeerRefused("") from error
        fds = [
            fd for _, kind, payload in ancillary if kind == socket.SCM_RIGHTS for fd in memoryview(payload).cast("i")
        ]
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if not data:
            raise PeerRefused("")
        assert len(data) == 128, len(data)
        (kind,) = struct.unpack_from("<H", data)
        if kind == DISCONNECT:
            raise PeerRefused(data[6:102].split(b"\0", 1)[0].decode())
        return kind, data[2:], fds

    def expect(self, kind: int) -> tuple[bytes, list[int]]:
        """Returns body and descriptors of a message that must be of this type."""
        found, body, fds = self.receive()
        assert found == kind, f"message type {found} instead of {kind}"
        return body, fds

    # The messages, with every field open to nonsense.

    def send_hello(self, *, versions: tuple[int, int] = (0x200, 0x200), most: int = 255, log2: int = 14) -> None:
        body = struct.pack("<32sHHHHHB", b"peer", *versions, most, most, most, log2)
        self.send(HELLO, body)

    def send_init(self, *, interface_id: int = 0, mode: int = 0, secret: bytes = b"", version: int = 0x200) -> None:
        self.send(INIT, struct.pack("<HIB24s32s", version, interface_id, mode, secret, b"peer"))

    def send_region(self, index: int, size: int, *fds: int) -> None:
        self.send(ADD_REGION, struct.pack("<HQ", index, size), fds)

    def send_ring(
        self,
        index: int,
        *fds: int,
        to_server: bool,
        region: int = 0,
        offset: int,
        log2: int,
        private: int = 0,
    ) -> None:
        self.send(ADD_RING, struct.pack("<HHHIBH", int(to_server), index, region, offset, log2, private), fds)


def make_region(size: int, *, seals: int = F_SEAL_SHRINK, name: str = "peer") -> int:
    """Makes a memfd of `size` bytes with `seals`."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def ring_bytes(log2: int) -> int:
    """Returns the length of a ring with its header."""
    return 128 + (16 << log2)


class Ring:
    """One ring in shared memory."""

    def __init__(self, memory: mmap.mmap, offset: int, log2: int, kick: int) -> None:
        self.size = 1 << log2
        self.kick = kick
        self._whole = memoryview(memory)
        self._view = self._whole[offset : offset + ring_bytes(log2)]
        self._words = self._view.cast("H")

    def release(self) -> None:
        """Gives up the views, so that the memory can be unmapped."""
        self._words.release()
        self._view.release()
        self._whole.release()

    def start(self, cookie: int = COOKIE, flags: int = 0) -> None:
        """Writes the header as the memory's owner does."""
        struct.pack_into("<IHH", self._view, 0, cookie, flags, 0)
        self.tail = 0

    @property
    def cookie(self) -> int:
        return int(struct.unpack_from("<I", self._view, 0)[0])

    @property
    def flags(self) -> int:
        return self._words[2]

    @flags.setter
    def flags(self, value: int) -> None:
        self._words[2] = value

    @property
    def head(self) -> int:
        return self._words[3]

    @head.setter
    def head(self, value: int) -> None:
        self._words[3] = value & 0xFFFF

    @property
    def tail(self) -> int:
        return self._words[32]

    @tail.setter
    def tail(self, value: int) -> None:
        self._words[32] = value & 0xFFFF

    def read(self, index: int) -> tuple[int, int, int, int]:
        """Returns flags, region, length and offset of a slot."""
        flags, region, length, offset, _ = DESCRIPTOR.unpack_from(self._view, 128 + 16 * (index & (self.size - 1)))
        return flags, region, length, offset

    def write(self, index: int, *, flags: int = 0, region: int = 0, length: int, offset: int) -> None:
        DESCRIPTOR.pack_into(self._view, 128 + 16 * (index & (self.size - 1)), flags, region, length, offset, 0)

    def wake(self) -> None:
        """Wakes the receiver, unless it polls."""
        if not self.flags & MASK_INT:
            os.write(self.kick, (1).to_bytes(8, "little"))


class _Peer:
    """What both roles have once connected."""

    control: Control
    to_server: Ring
    to_client: Ring

    def __init__(self) -> None:
        self.maps: list[mmap.mmap] = []
        self.fds: list[int] = []
        self.connected = False

    def close(self, reason: str | None = None) -> None:
        """Closes everything; says DISCONNECT first when there is a reason."""
        if reason is not None:
            with contextlib.suppress(OSError):
                self.control.send(DISCONNECT, struct.pack("<I96s", 0, reason.encode()))
        self.control.close()
        for ring in (getattr(self, "to_server", None), getattr(self, "to_client", None)):
            if ring is not None:
                ring.release()
        for mapped in self.maps:
            mapped.close()
        for fd in self.fds:
            os.close(fd)
        self.maps, self.fds = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, frames: Iterable[bytes]) -> int:
        """Sends frames until there is no room; returns how many went."""
        raise NotImplementedError

    def receive(self) -> list[bytes]:
        """Returns all frames that are there."""
        raise NotImplementedError

    def _kick_fd(self) -> int:
        """The eventfd that says frames have come for us."""
        raise NotImplementedError

    def send_all(self, frames: Sequence[bytes], timeout_s: float = 5.0) -> None:
        """Sends all frames, waiting for room."""
        deadline = time.monotonic() + timeout_s
        sent = 0
        while sent < len(frames):
            now = self.send(frames[sent:])
            sent += now
            if not now:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{sent} of {len(frames)} frames sent")
                time.sleep(0.0005)

    def receive_all(self, count: int, timeout_s: float = 5.0) -> list[bytes]:
        """Waits for `count` frames; returns those that came, fewer when the time is up."""
        deadline = time.monotonic() + timeout_s
        woken = select.poll()
        woken.register(self._kick_fd(), select.POLLIN)
        frames = self.receive()
        while len(frames) < count and (left := deadline - time.monotonic()) > 0:
            if woken.poll(min(left * 1000, 10)):
                os.read(self._kick_fd(), 8)
            frames += self.receive()
        return frames

    def exchange(self, frames: Sequence[bytes], timeout_s: float = 5.0, window: int = 256) -> list[bytes]:
        """Sends frames and receives as many, never more than `window` on their way."""
        deadline = time.monotonic() + timeout_s
        got: list[bytes] = []
        sent = 0
        while len(got) < len(frames) and time.monotonic() < deadline:
            sent += self.send(frames[sent : len(got) + window])
            new = self.receive()
            got += new
            if not new:
                time.sleep(0.0002)
        return got


class ClientPeer(_Peer):
    """A peer that connects and owns the memory."""

    def __init__(
        self,
        address: str | Control,
        *,
        interface_id: int = 0,
        mode: int = 0,
        secret: bytes = b"",
        log2: int = 10,
        buffer_bytes: int = 2048,
        headroom: int = 0,
        buffer_region: int = 0,
        seals: int = F_SEAL_SHRINK,
        pipelined: bool = False,
        post_early: bool = False,
        connect: bool = True,
    ) -> None:
        """Connects to `address` and shakes hands; `connect=False` leaves every step to the caller.

        With `post_early` it lends its buffers before it asks to connect: legal towards a server that
        leaves indices alone. Buffers are in region 0 behind the rings or, with `buffer_region` 1, in a
        region of their own.
        """
        super().__init__()
        self.control = address if isinstance(address, Control) else Control.connect(address)
        self.interface_id, self.mode, self.secret = interface_id, mode, secret
        self.log2, self.buffer_bytes, self.headroom = log2, buffer_bytes, headroom
        self.buffer_region, self.seals, self.pipelined = buffer_region, seals, pipelined
        self.post_early = post_early
        self._head = 0  # of the ring to the server: what we have filled
        self._posted = 0  # head of the ring to the client
        self._taken = 0  # what we have read there
        self._glued: list[bytes] = []
        if connect:
            try:
                self.handshake()
            except BaseException:
                self.close()
                raise

    def allocate(self) -> None:
        """Makes regions and rings."""
        slots = 2 << self.log2
        rings = 2 * ring_bytes(self.log2)
        buffers = slots * self.buffer_bytes
        sizes = [rings, buffers] if self.buffer_region else [rings + buffers]
        self.buffers_at = 0 if self.buffer_region else rings
        for size in sizes:
            fd = make_region(size, seals=self.seals)
            self.fds.append(fd)
            self.maps.append(mmap.mmap(fd, size))
        self.regions = len(sizes)
        kicks = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        self.fds += kicks
        self.to_server = Ring(self.maps[0], 0, self.log2, kicks[0])
        self.to_client = Ring(self.maps[0], ring_bytes(self.log2), self.log2, kicks[1])
        for ring in (self.to_server, self.to_client):
            ring.start()

    def handshake(self) -> None:
        """Does all of it."""
        control = self.control
        control.expect(HELLO)
        control.send_init(interface_id=self.interface_id, mode=self.mode, secret=self.secret)
        if not self.pipelined:
            control.expect(ACK)
        self.allocate()
        steps = [lambda i=i: control.send_region(i, len(self.maps[i]), self.fds[i]) for i in range(self.regions)]
        steps.append(lambda: control.send_ring(0, self.to_server.kick, to_server=True, offset=0, log2=self.log2))
        steps.append(
            lambda: control.send_ring(
                0, self.to_client.kick, to_server=False, offset=ring_bytes(self.log2), log2=self.log2
            )
        )
        for step in steps:
            step()
            if not self.pipelined:
                control.expect(ACK)
        if self.post_early:
            self.post()
        control.send(CONNECT, b"peer0")
        if self.pipelined:
            for _ in range(len(steps) + 1):
                control.expect(ACK)
        control.expect(CONNECTED)
        self.connected = True
        self.post()

    def slot_offset(self, *, to_server: bool, index: int) -> int:
        """Returns where a slot's buffer is in its region."""
        size = 1 << self.log2
        slot = (index & (size - 1)) + (0 if to_server else size)
        return self.buffers_at + slot * self.buffer_bytes

    def post(self) -> None:
        """Lends all free slots to the server."""
        size = self.to_client.size
        while (self._posted - self._taken) & 0xFFFF < size:
            self.to_client.write(
                self._posted,
                region=self.buffer_region,
                length=self.buffer_bytes - self.headroom,
                offset=self.slot_offset(to_server=False, index=self._posted) + self.headroom,
            )
            self._posted = (self._posted + 1) & 0xFFFF
        self.to_client.head = self._posted

    def send(self, frames: Iterable[bytes]) -> int:
        ring, sent = self.to_server, 0
        free = ring.size - ((self._head - ring.tail) & 0xFFFF)
        room = self.buffer_bytes
        for frame in frames:
            parts = [frame[at : at + room] for at in range(0, len(frame), room)] or [b""]
            if len(parts) > free:
                break
            for number, part in enumerate(parts):
                at = self.slot_offset(to_server=True, index=self._head)
                self.maps[self.buffer_region][at : at + len(part)] = part
                more = NEXT if number < len(parts) - 1 else 0
                ring.write(self._head, flags=more, region=self.buffer_region, length=len(part), offset=at)
                self._head = (self._head + 1) & 0xFFFF
            free -= len(parts)
            sent += 1
        ring.head = self._head
        if sent:
            ring.wake()
        return sent

    def receive(self) -> list[bytes]:
        ring, frames = self.to_client, []
        tail = ring.tail
        while self._taken != tail:
            flags, region, length, offset = ring.read(self._taken)
            self._glued.append(self.maps[region][offset : offset + length])
            if not flags & NEXT:
                frames.append(b"".join(self._glued))
                self._glued = []
            self._taken = (self._taken + 1) & 0xFFFF
        self.post()
        return frames

    def _kick_fd(self) -> int:
        return self.to_client.kick


class ServerPeer(_Peer):
    """A peer that listens and maps what it is given."""

    def __init__(
        self, address: str, *, secret: bytes = b"", interface_id: int | None = None, reset: bool = True
    ) -> None:
        """Listens. `reset` writes zeros into all indices at CONNECT, as libmemif and DPDK do."""
        super().__init__()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(unix_address(address))
        self.listener.listen(1)
        self.address, self.secret, self.interface_id, self.reset = address, secret, interface_id, reset
        self._read = 0
        self._filled = 0
        self._glued: list[bytes] = []

    def close(self, reason: str | None = None) -> None:
        self.stop_listening()
        if hasattr(self, "control"):
            super().close(reason)

    def drop(self, reason: str | None = None) -> None:
        """Ends the connection but goes on listening."""
        super().close(reason)
        self.to_server = self.to_client = None  # type: ignore[assignment]
        self._read = self._filled = 0

    def stop_listening(self) -> None:
        if self.listener.fileno() >= 0:
            self.listener.close()
            if not self.address.startswith("@"):
                os.unlink(self.address)

    def accept(self, timeout_s: float = 5.0) -> Self:
        """Waits for a client and shakes hands."""
        self.listener.settimeout(timeout_s)
        sock, _ = self.listener.accept()
        # As VPP, libmemif and DPDK do: every message then carries credentials, before the descriptor.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.control = Control(sock, timeout_s)
        self.control.send_hello()
        body, _ = self.control.expect(INIT)
        version, interface_id, mode, secret, name = struct.unpack_from("<HIB24s32s", body)
        self.seen = (version, interface_id, mode, secret.rstrip(b"\0"), name.split(b"\0", 1)[0])
        if secret.rstrip(b"\0") != self.secret or self.interface_id not in (None, interface_id):
            self.control.send(DISCONNECT, struct.pack("<I96s", 0, b"Incorrect secret"))
            self.control.close()
            raise PeerRefused("we refused")
        self.control.send(ACK)
        rings: dict[bool, tuple[int, int, int, int]] = {}
        while True:
            kind, body, fds = self.control.receive()
            if kind == CONNECT:
                break
            (fd,) = fds
            self.fds.append(fd)
            if kind == ADD_REGION:
                index, size = struct.unpack_from("<HQ", body)
                assert index == len(self.maps)
                self.maps.append(mmap.mmap(fd, size))
            else:
                assert kind == ADD_RING
                flags, index, region, offset, log2, private = struct.unpack_from("<HHHIBH", body)
                assert (index, private) == (0, 0)
                rings[bool(flags & 1)] = (region, offset, log2, fd)
            self.control.send(ACK)
        self.to_server, self.to_client = (
            Ring(self.maps[region], offset, log2, fd) for region, offset, log2, fd in (rings[True], rings[False])
        )
        assert self.to_server.cookie == self.to_client.cookie == COOKIE
        if self.reset:
            for ring in (self.to_server, self.to_client):
                ring.head = ring.tail = 0
        self.control.send(CONNECTED, b"peer0")
        self.connected = True
        return self

    def send(self, frames: Iterable[bytes]) -> int:
        ring, sent = self.to_client, 0
        head = ring.head
        for frame in frames:
            slot, left, used = self._filled, memoryview(frame), []
            while slot != head:
                _, region, length, offset = ring.read(slot)
                used.append((slot, region, offset, left[:length]))
                left = left[length:]
                slot = (slot + 1) & 0xFFFF
                if not left:
                    break
            if left or not used:
                break
            for number, (index, region, offset, part) in enumerate(used):
                self.maps[region][offset : offset + len(part)] = part
                more = NEXT if number < len(used) - 1 else 0
                ring.write(index, flags=more, region=region, length=len(part), offset=offset)
            self._filled = slot
            sent += 1
        ring.tail = self._filled
        if sent:
            ring.wake()
        return sent

    def receive(self) -> list[bytes]:
        ring, frames = self.to_server, []
        head = ring.head
        while self._read != head:
            flags, region, length, offset = ring.read(self._read)
            ring.write(self._read, region=region, length=length, offset=offset)  # without NEXT, for the next lap
            self._glued.append(self.maps[region][offset : offset + length])
            if not flags & NEXT:
                frames.append(b"".join(self._glued))
                self._glued = []
            self._read = (self._read + 1) & 0xFFFF
        ring.tail = self._read
        return frames

    def _kick_fd(self) -> int:
        return self.to_server.kick
