"""Opening ports over kernel links: packet sockets, and what becomes of their links.

Sockets are opened in the link's namespace, by threads; see packet(7) for the options
and their order.
"""

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from forwarder.dataplane.af_packet import AfPacketPort
from forwarder.dataplane.link_watch import LinkState, LinkWatch, open_link_watch
from forwarder.dataplane.linux import bind_packet_socket
from forwarder.dataplane.netns import call_in_netns
from forwarder.dataplane.spec import KernelPortSpec, Mode
from forwarder.errors import DataplaneError

log = logging.getLogger(__name__)

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
ETH_P_ALL = 3
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

QUEUE_BYTES = 4 << 20
"""What the kernel may keep for us in each direction: sixty super-frames or five thousand small ones.

Taken only while frames wait. The default of 208 KiB holds two super-frames.
"""


@dataclass(slots=True)
class _Watched:
    """The link watch of one namespace, while ports of it are open."""

    opening: asyncio.Lock
    watch: LinkWatch | None = None
    ports: int = 0


class KernelPorts:
    """Opens ports over kernel links. One per data plane."""

    def __init__(self, *, qdisc_bypass: bool = True) -> None:
        """`qdisc_bypass`: frames are sent around the queue discipline of our end of the link.

        That is faster, and right while nothing is configured there.
        """
        self._qdisc_bypass = qdisc_bypass
        self._watched: dict[tuple[int, int], _Watched] = {}

    @asynccontextmanager
    async def open(self, spec: KernelPortSpec) -> AsyncIterator[AfPacketPort]:
        """Opens a port over one link for as long as the context lasts.

        Connected while the link is up and its other end is too. When the link is deleted
        or moved the port is dead and its `error` says so. Raises DataplaneError naming
        the link if it is not there, has a port already, or may not be opened.
        """
        try:
            sock = await call_in_netns(spec.netns, lambda: self._open_socket(spec), undo=socket.socket.close)
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

        def follow(state: LinkState) -> None:
            _follow(port, state)

        try:
            async with self._watch(spec.netns) as watch:
                watch.add(spec.ifindex, follow)
                try:
                    if port.error is not None:
                        raise port.error
                    yield port
                finally:
                    watch.remove(spec.ifindex)
        finally:
            # The kernel waits for packets in flight before it lets go of the socket: not on our thread.
            await call_in_netns(None, port.close, undo=lambda _: None)

    @asynccontextmanager
    async def _watch(self, netns: int | None) -> AsyncIterator[LinkWatch]:
        """Lends the watch of a namespace, opened by the first port and closed by the last."""
        status = os.stat("/proc/self/ns/net") if netns is None else os.fstat(netns)
        key = (status.st_dev, status.st_ino)
        entry = self._watched.setdefault(key, _Watched(asyncio.Lock()))
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
