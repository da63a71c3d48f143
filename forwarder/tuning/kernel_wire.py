"""A kernel vWire between two namespaces made for it: TCP throughput and the time of a ping.

The poll window and the worker's CPU matter most here: a worker that polls saves wake-ups, and
takes the CPU from the pods.
"""

import asyncio
import ipaddress
import os
import socket
import statistics
import struct
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from forwarder.dataplane import Dataplane
from forwarder.dataplane.spec import KernelPortSpec
from forwarder.netlink import Channel, address, link
from forwarder.netlink.link import IFF_UP, VethEnd
from forwarder.netns import Netns, run_in

MTU_BYTES = 1500
CHUNK = bytes(1 << 20)
STREAM_S = 0.4
PINGS = 40
PING_INTERVAL_S = 0.001
PATIENCE_S = 5.0
_ECHO_REQUEST = 8
_TCP_PORT = 5201


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured."""

    gbps: float
    """Gbit/s of one TCP stream."""
    ping_us: float
    """Median round trip."""


class Pods:
    """Two namespaces and our namespace between them, each joined to ours by a veth pair."""

    def __init__(self, pods: Sequence[Netns], ours: Netns) -> None:
        self._pods, self._ours = pods, ours
        self._links: list[KernelPortSpec] = []

    def make(self) -> None:
        """Makes the links; on a thread that is in our namespace."""
        with Channel() as channel:
            for number, pod in enumerate(self._pods, start=1):
                name = f"tune{number}"
                ours = VethEnd(name=name, mac=link.random_mac(), mtu_bytes=MTU_BYTES)
                theirs = VethEnd(name="eth0", mac=link.random_mac(), mtu_bytes=MTU_BYTES)
                channel.execute(
                    [
                        link.create_veth(ours, theirs, pod.fileno()),
                        link.no_ipv6_address(name),
                        link.set_flags(name, on=IFF_UP | _IFF_NOARP),
                    ]
                )
                spec = KernelPortSpec(
                    name=name, ifindex=socket.if_nametoindex(name), netns=self._ours.fileno(), mtu_bytes=MTU_BYTES
                )
                self._links.append(spec)

    async def dress(self) -> None:
        """Gives the pods' ends their addresses."""
        for number, pod in enumerate(self._pods, start=1):
            await run_in(pod, lambda number=number: _dress(number))  # type: ignore[misc]

    async def measure(self, *, cpus: Sequence[int], poll_window_s: float) -> Figures:
        """Joins the pods by a vWire and returns what goes over it."""
        async with AsyncExitStack() as stack:
            plane = await stack.enter_async_context(
                Dataplane(workers=1, cpus=cpus, poll_window_us=round(1e6 * poll_window_s))
            )
            ports = [await stack.enter_async_context(plane.kernel_port(spec)) for spec in self._links]
            await stack.enter_async_context(plane.vwire(*ports, name="tuned"))
            ping_us = await run_in(self._pods[0], lambda: _ping_us(_host(2)))
            gbps = await self._stream()
        return Figures(gbps=gbps, ping_us=ping_us)

    async def _stream(self) -> float:
        listener = await run_in(self._pods[1], lambda: socket.create_server((_host(2), _TCP_PORT)))
        with listener:
            listener.settimeout(PATIENCE_S)
            sender = await run_in(
                self._pods[0], lambda: socket.create_connection((_host(2), _TCP_PORT), timeout=PATIENCE_S)
            )
            with sender:
                receiver, _ = await asyncio.to_thread(listener.accept)
                with receiver:
                    receiver.settimeout(PATIENCE_S)
                    return await asyncio.to_thread(_stream_gbps, sender, receiver)


_IFF_NOARP = 0x80


def _host(number: int) -> str:
    return f"10.255.255.{number}"


def _dress(number: int) -> None:
    with Channel() as channel:
        index = socket.if_nametoindex("eth0")
        interface = ipaddress.ip_interface(f"{_host(number)}/24")
        channel.execute([address.add(index, interface), link.set_flags(index, on=IFF_UP)])


def _ping_us(target: str) -> float:
    """Has the kernel of the other pod answer pings, one after the other; returns the median."""
    took = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.settimeout(PATIENCE_S)
        identity = os.getpid() & 0xFFFF
        for number in range(PINGS):
            header = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identity, number)
            total = sum(struct.unpack("!4H", header))
            checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
            start = time.perf_counter()
            icmp.sendto(header[:2] + struct.pack("!H", checksum) + header[4:], (target, 0))
            icmp.recv(2048)
            took.append(1e6 * (time.perf_counter() - start))
            time.sleep(PING_INTERVAL_S)
    return statistics.median(took)


def _stream_gbps(sender: socket.socket, receiver: socket.socket) -> float:
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            sender.sendall(CHUNK)
        sender.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, name="tune sender")
    buffer = bytearray(len(CHUNK))
    received = 0
    thread.start()
    try:
        start = time.monotonic()
        while (now := time.monotonic()) - start < STREAM_S:
            received += receiver.recv_into(buffer)
    finally:
        ended.set()
        while receiver.recv_into(buffer):  # until the sender, which waits for room, has seen it
            continue
        thread.join()
    return 8 * received / (now - start) / 1e9


@asynccontextmanager
async def pods() -> AsyncIterator[Pods]:
    """Makes the namespaces and links; they go when the context is left."""
    async with AsyncExitStack() as stack:
        a, b, ours = [await asyncio.to_thread(Netns.create) for _ in range(3)]
        for each in (a, b, ours):
            stack.callback(each.close)
        made = Pods((a, b), ours)
        await run_in(ours, made.make)
        await made.dress()
        yield made
