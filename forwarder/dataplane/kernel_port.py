"""Opening ports over kernel links: packet sockets, their rings, and what becomes of their links.

Sockets are opened in the link's namespace, by threads; see packet(7) for the options
and their order.

A port has one socket. While it is busy it has a second one with a mapped ring, and both
are members of a fanout group whose program gives every frame to one of them: changing
the program moves a running port from queue to ring and back without losing, doubling or
reordering a frame.
"""

import asyncio
import errno
import logging
import os
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

from forwarder.dataplane.af_packet import AfPacketPort
from forwarder.dataplane.link_watch import LinkState, LinkWatch, open_link_watch
from forwarder.dataplane.linux import bind_packet_socket, refuse_all_frames, steer_fanout
from forwarder.dataplane.packet_ring import PacketRing
from forwarder.dataplane.ring_policy import RING_RATE, wants_ring
from forwarder.dataplane.running_task import running_task
from forwarder.dataplane.spec import KernelPortSpec, Mode
from forwarder.errors import DataplaneError
from forwarder.netns import run_in

log = logging.getLogger(__name__)

# linux/if_packet.h, linux/if_ether.h, linux/filter.h, asm-generic/socket.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_AUXDATA = 8
PACKET_VERSION = 10
PACKET_RESERVE = 12
PACKET_VNET_HDR = 15
PACKET_FANOUT = 18
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
PACKET_FANOUT_CBPF = 6
PACKET_FANOUT_FLAG_UNIQUEID = 0x2000
PACKET_FANOUT_FLAG_IGNORE_OUTGOING = 0x4000
TPACKET_V2 = 1
ETH_P_ALL = 3
SO_DETACH_FILTER = 27
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

QUEUE_BYTES = 4 << 20
"""What the kernel may keep for us in each direction: sixty super-frames or five thousand small ones.

Taken only while frames wait. The default of 208 KiB holds two super-frames.
"""

BLOCK_BYTES = 1 << 20
BLOCKS = 8
SLOT_BYTES = 65728
"""A frame of 64 KiB, its headers, and room for a VLAN tag; a multiple of 16."""
RING_RESERVE_BYTES = 64

LOOK_INTERVAL_S = 1.0

QUEUE_MEMBER, RING_MEMBER = 0, 1
"""Places in the fanout group."""

_FANOUT = PACKET_FANOUT_CBPF | PACKET_FANOUT_FLAG_IGNORE_OUTGOING


class _Stage(Enum):
    """Where a port receives. Each look takes it one stage further at most, in this order and round again."""

    QUEUE = auto()
    ENTERING = auto()
    RING = auto()
    LEAVING = auto()
    RETIRING = auto()
    """Receives from the queue; the worker may not have let go of the ring yet."""


@dataclass(slots=True, eq=False)
class _OpenPort:
    """What control keeps of an open port."""

    port: AfPacketPort
    spec: KernelPortSpec
    group: int | None = None
    """The fanout group of its sockets; None until the kernel grants one."""
    wait: select.epoll | None = None
    """What the worker waits for while there is a ring: both sockets."""
    stage: _Stage = _Stage.QUEUE
    refused: bool = False
    """The kernel had no memory for a ring, or none of what it takes: not asked again."""
    retired: PacketRing | None = None
    received: int = 0
    received_large: int = 0
    """Frames at the last look."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def close_ring(self) -> None:
        """Closes a ring that is not in use any more."""
        if self.retired is not None:
            self.retired.close()
            self.retired = None
        if self.wait is not None:
            self.wait.close()
            self.wait = None


@dataclass(slots=True)
class _Watched:
    """The link watch of one namespace, while ports of it are open."""

    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    watch: LinkWatch | None = None
    ports: int = 0


class KernelPorts:
    """Opens ports over kernel links, and gives the busy ones rings. One per data plane.

    While `running` it looks at their rates every second in which a worker did anything; otherwise every port
    receives from its queue.
    """

    def __init__(
        self,
        *,
        qdisc_bypass: bool = True,
        max_rings: int = 16,
        ring_rate: float = RING_RATE,
        turns: Callable[[], int] | None = None,
    ) -> None:
        """`max_rings` bounds the kernel memory for rings, 8 MiB each; 0 for none.

        `ring_rate` is the frames per second from which a port is worth one.
        `turns` tells how many turns the workers have made: while there are no more, no port is looked at.
        `qdisc_bypass`: frames are sent around the queue discipline of our end of the link.
        That is faster, and right while nothing is configured there.
        """
        self._qdisc_bypass = qdisc_bypass
        self._max_rings = max_rings
        self.ring_rate = ring_rate
        self._watched: dict[tuple[int, int], _Watched] = {}
        self._open: dict[_OpenPort, None] = {}
        self._looked_at = 0.0
        self._turns = turns
        self._any_open = asyncio.Event()

    @property
    def rings(self) -> int:
        """How many ports have a ring."""
        return sum(entry.stage is not _Stage.QUEUE for entry in self._open)

    @asynccontextmanager
    async def open(self, spec: KernelPortSpec) -> AsyncIterator[AfPacketPort]:
        """Opens a port over one link for as long as the context lasts.

        Connected while the link is up and its other end is too. When the link is deleted
        or moved the port is dead and its `error` says so. Raises DataplaneError naming
        the link if it is not there, has a port already, or may not be opened.
        """
        async with AsyncExitStack() as stack:
            try:
                sock = await run_in(spec.netns, lambda: self._open_socket(spec), discard=socket.socket.close)
            except OSError as error:
                raise DataplaneError(
                    f"opening a packet socket on link {spec.name} (index {spec.ifindex})", errno=error.errno or 0
                ) from error
            port = AfPacketPort(
                sock,
                spec.name,
                ip_mode=spec.mode is Mode.IP,
                mtu_bytes=spec.mtu_bytes,
                mac=spec.mac,
                peer_mac=spec.peer_mac,
                bypass=self._qdisc_bypass,
            )
            entry = _OpenPort(port=port, spec=spec, group=_join_group(sock) if self._max_rings else None)
            stack.push_async_callback(_close, entry)
            watch = await stack.enter_async_context(self._watch(spec.netns))
            watch.add(spec.ifindex, lambda state: _follow(port, state))
            stack.callback(watch.remove, spec.ifindex)
            if port.error is not None:
                raise port.error
            self._open[entry] = None
            self._any_open.set()
            stack.callback(self._forget, entry)
            yield port

    def _forget(self, entry: _OpenPort) -> None:
        del self._open[entry]
        if not self._open:
            self._any_open.clear()

    @asynccontextmanager
    async def running(self, *, interval_s: float = LOOK_INTERVAL_S) -> AsyncIterator[None]:
        """Looks at the ports' rates every `interval_s`, as long as the context lasts and there are ports."""
        async with running_task(self._run(interval_s), "kernel ports"):
            yield

    async def _run(self, interval_s: float) -> None:
        turns_seen = -1
        all_settled = False
        while True:
            await self._any_open.wait()
            await asyncio.sleep(interval_s)
            now = asyncio.get_running_loop().time()
            turns = self._turns() if self._turns is not None else turns_seen + 1
            if turns == turns_seen and all_settled:
                self._looked_at = now
                continue
            turns_seen = turns
            await self.look(now)
            all_settled = not self.rings

    async def look(self, now: float) -> None:
        """Takes each port one stage nearer to where its rate since the last look says it belongs.

        `now` is in seconds.
        """
        seconds = now - self._looked_at if self._looked_at else 0.0
        self._looked_at = now
        silent_stay = self.ring_rate > 0
        for entry in list(self._open):
            received = entry.port.received
            if received == entry.received and entry.stage is _Stage.QUEUE and silent_stay:
                continue  # a thousand that are silent cost this comparison each, and nothing else
            large = entry.port.received_large
            rate = (received - entry.received) / seconds if seconds > 0 else 0.0
            large_rate = (large - entry.received_large) / seconds if seconds > 0 else 0.0
            entry.received, entry.received_large = received, large
            if rate < self.ring_rate and entry.stage is _Stage.QUEUE:
                continue
            async with entry.changing:
                if entry in self._open and entry.port.error is None:
                    await self._step(entry, rate, large_rate)

    async def _step(self, entry: _OpenPort, rate: float, large_rate: float) -> None:
        port = entry.port
        wanted = wants_ring(
            rate,
            large_rate,
            ring_rate=self.ring_rate,
            has_ring=entry.stage is not _Stage.QUEUE,
            rings=self.rings,
            max_rings=self._max_rings,
        )
        try:
            match entry.stage:
                case _Stage.QUEUE if wanted and port.connected and not entry.refused:
                    await _enter_ring(entry)
                case _Stage.ENTERING:
                    port.settle_ring()
                    entry.stage = _Stage.RING
                case _Stage.RING if not wanted or not port.connected:
                    await run_in(None, lambda: steer_fanout(port.socket.fileno(), QUEUE_MEMBER))
                    port.leave_ring()
                    entry.stage = _Stage.LEAVING
                case _Stage.LEAVING if port.ring is not None and port.ring.empty:
                    entry.retired = port.detach_ring()
                    port.set_wait_fd(port.socket.fileno())
                    entry.stage = _Stage.RETIRING
                case _Stage.RETIRING if not port.ring_held:
                    await run_in(None, entry.close_ring)
                    entry.stage = _Stage.QUEUE
        except OSError as error:
            entry.refused = True
            log.warning("link %s goes on without a ring: %s", entry.spec.name, str(error))

    @asynccontextmanager
    async def _watch(self, netns: int | None) -> AsyncIterator[LinkWatch]:
        """Lends the watch of a namespace, opened by the first port and closed by the last."""
        status = os.stat("/proc/self/ns/net") if netns is None else os.fstat(netns)
        key = (status.st_dev, status.st_ino)
        entry = self._watched.setdefault(key, _Watched())
        entry.ports += 1
        try:
            async with entry.opening:
                if entry.watch is None:
                    try:
                        entry.watch = await open_link_watch(netns)
                    except OSError as error:
                        raise DataplaneError("watching links", errno=error.errno or 0) from error
            yield entry.watch
        finally:
            entry.ports -= 1
            if not entry.ports:
                del self._watched[key]
                if entry.watch is not None:
                    entry.watch.close()

    def _open_socket(self, spec: KernelPortSpec) -> socket.socket:
        """Opens and binds the socket; runs in the link's namespace."""
        # Protocol 0: nothing arrives before the socket is bound to its link.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        try:
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, int(self._qdisc_bypass))
            sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, QUEUE_BYTES)
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
            bind_packet_socket(sock.fileno(), spec.ifindex, ETH_P_ALL)
            membership = struct.pack("=iHH8x", spec.ifindex, PACKET_MR_PROMISC, 0)
            sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
        except BaseException:
            sock.close()
            raise
        return sock


def _join_group(sock: socket.socket) -> int | None:
    """Makes a fanout group with the socket as its first member; returns its id, or None where that is refused.

    Kernels before 6.10 refuse while the link is down.
    """
    try:
        sock.setsockopt(SOL_PACKET, PACKET_FANOUT, (_FANOUT | PACKET_FANOUT_FLAG_UNIQUEID) << 16)
        # A program of its own, so that later changes wait until this one is out of use.
        steer_fanout(sock.fileno(), QUEUE_MEMBER)
        return sock.getsockopt(SOL_PACKET, PACKET_FANOUT) & 0xFFFF
    except OSError as error:
        log.debug("no fanout group: %s", error)
        return None


def _open_ring(spec: KernelPortSpec, group: int) -> PacketRing:
    """Opens the ring's socket and makes it the second member of the group; runs in the link's namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.setsockopt(SOL_PACKET, PACKET_RESERVE, RING_RESERVE_BYTES)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        ring = PacketRing(sock, block_bytes=BLOCK_BYTES, n_blocks=BLOCKS, slot_bytes=SLOT_BYTES)
    except BaseException:
        sock.close()
        raise
    try:
        # Until it is in the group the socket would get every frame a second time.
        refuse_all_frames(sock.fileno())
        bind_packet_socket(sock.fileno(), spec.ifindex, ETH_P_ALL)
        sock.setsockopt(SOL_PACKET, PACKET_FANOUT, group | _FANOUT << 16)
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except BaseException:
        ring.close()
        raise
    return ring


async def _enter_ring(entry: _OpenPort) -> None:
    """Opens a ring for a running port and lets the kernel fill it from now on. Raises OSError."""
    port, spec, group = entry.port, entry.spec, entry.group
    if group is None:
        entry.group = group = _join_group(port.socket)
        if group is None:
            return
    ring = await run_in(spec.netns, lambda: _open_ring(spec, group), discard=PacketRing.close)
    entry.wait = select.epoll()
    entry.wait.register(port.socket.fileno(), select.EPOLLIN)
    entry.wait.register(ring.socket.fileno(), select.EPOLLIN)
    port.attach_ring(ring)
    port.set_wait_fd(entry.wait.fileno())
    entry.stage = _Stage.ENTERING
    try:
        await run_in(None, lambda: steer_fanout(port.socket.fileno(), RING_MEMBER))
    except OSError:
        port.leave_ring()
        entry.stage = _Stage.LEAVING
        raise


async def _close(entry: _OpenPort) -> None:
    """Closes a port's sockets, when nobody changes them, and no worker runs it any more.

    The kernel waits for the packets in flight before it lets go of a packet socket: not on our thread.
    """

    def close() -> None:
        entry.port.close()
        entry.close_ring()

    async with entry.changing:
        await run_in(None, close)


def _follow(port: AfPacketPort, state: LinkState) -> None:
    """Makes a link's state its port's."""
    if port.error is not None:
        return
    if state.gone:
        error = DataplaneError(f"link {port.name} lost: {state.gone}", errno=errno.ENODEV)
        log.warning("%s", error)
        port.fail(error)
    else:
        port.set_link(state.up)
