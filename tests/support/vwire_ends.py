"""The two ends of a vWire that a Request made, as raw ports: what goes in at one comes out at the other.

An end that is a kernel interface is driven by a packet socket in its pod, a memif one by a memif
port, both from Python and a burst at a time, so that a million frames take seconds.
"""

import asyncio
import itertools
import select
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection
from forwarder.api.mechanisms import Memif
from forwarder.dataplane import ConnectedMemifPort, MemifPortSpec, Mode, Port, PortIO, Role
from forwarder.dataplane.kernel_port import KernelPorts
from forwarder.dataplane.memif_listener import MemifListeners
from forwarder.dataplane.memif_port import open_memif_port
from forwarder.dataplane.spec import KernelPortSpec
from forwarder.mesh.endpoint import Extension
from forwarder.netns import Netns
from tests.support.domain import Domain, kernel, links, memif
from tests.support.netns import Netns as Shell
from tests.support.packet_socket import quiet

ETHERNET_HEADER = 14
WINDOW = 50
"""Frames on the way at once. The least that fits is the ring of a hot kernel port, 120 slots, and a slot
is given back a burst after its frame has arrived."""
FLUSH_PACKET = b"\x45\0\0\x2e" + bytes(5) + b"\xfd" + bytes(32)
"""Nothing that a kernel says by itself: IPv4 from nobody to nobody."""
FLUSH_HEADER = bytes.fromhex("02000000000b 02000000000a 88b5")


@dataclass(kw_only=True)
class End:
    """One end. A frame is what the vWire's payload is: an Ethernet frame, or a packet."""

    io: PortIO
    framed: bytes = b""
    """The hardware addresses that a packet is sent with and arrives with; empty where nothing is added."""
    arrives_with: bytes = b""

    def send(self, frames: Sequence[bytes]) -> int:
        """Sends without waiting; returns how many went."""
        if not self.framed:
            return self.io.write(frames)
        return self.io.write([self.framed + _ethertype(packet) + packet for packet in frames])

    def receive(self) -> list[bytes]:
        """Returns what is there."""
        frames = self.io.read(WINDOW)
        if not self.framed:
            return frames
        for frame in frames:
            assert frame[:12] == self.arrives_with
            assert frame[12:14] == _ethertype(frame[14:])
        return [frame[ETHERNET_HEADER:] for frame in frames]

    def wait(self, timeout_s: float) -> None:
        """Waits until there may be something."""
        select.select([self.io.fileno()], [], [], timeout_s)


def _ethertype(packet: bytes) -> bytes:
    return b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"


@dataclass(kw_only=True)
class Ends:
    """Both ends of one vWire."""

    client: End
    endpoint: End
    connection: Connection


def carry(source: End, sink: End, frames: Iterable[bytes], patience_s: float = 10.0) -> int:
    """Sends frames, never more than WINDOW ahead, and compares each with what arrives; returns how many went.

    Blocks. Raises AssertionError at the first that does not arrive, or arrives changed or out of turn.
    """
    waiting = iter(frames)
    on_the_way: list[bytes] = []
    unsent: list[bytes] = []
    sent = 0
    while True:
        while not unsent and len(on_the_way) < WINDOW and (one := next(waiting, None)) is not None:
            unsent = [one]
            for another in waiting:
                unsent.append(another)
                if len(unsent) + len(on_the_way) >= WINDOW:
                    break
        if unsent:
            taken = source.send(unsent)
            sent += taken
            on_the_way += unsent[:taken]
            unsent = unsent[taken:]
        if not on_the_way and not unsent:
            return sent
        deadline = time.monotonic() + patience_s
        while not (arrived := sink.receive()):
            assert time.monotonic() < deadline, f"{len(on_the_way)} of {sent} frames did not arrive"
            sink.wait(0.1)
        expected = on_the_way[: len(arrived)]
        if arrived != expected:
            at = next(n for n, pair in enumerate(zip(arrived, expected, strict=False)) if pair[0] != pair[1])
            raise AssertionError(f"frame {sent - len(on_the_way) + at} {_difference(arrived[at:], on_the_way[at:])}")
        del on_the_way[: len(arrived)]


def _difference(arrived: Sequence[bytes], expected: Sequence[bytes]) -> str:
    """Says what became of the first of the expected frames."""
    got, wanted = arrived[0], expected[0]
    if got in expected:
        return f"of {len(wanted)} bytes, {wanted[:40].hex()}…, was overtaken by number {expected.index(got)} after it"
    at = next((n for n, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]), len(wanted))
    return (
        f"of {len(wanted)} bytes arrived with {len(got)}, other from byte {at} on: "
        f"{got[at : at + 20].hex()} in place of {wanted[at : at + 20].hex()}, after {wanted[:40].hex()}"
    )


async def _settled(_port: Port, _generation: int) -> None:
    """Waits for no worker: the port is driven from Python."""


def _alone(spec: MemifPortSpec) -> AbstractAsyncContextManager[ConnectedMemifPort]:
    """Opens a memif port that no worker runs."""
    return open_memif_port(spec, MemifListeners(), _settled)


@dataclass
class RawMemifEnd:
    """An endpoint's mechanism that opens a memif port for each connection and leaves its frames alone."""

    open: Callable[[MemifPortSpec], AbstractAsyncContextManager[ConnectedMemifPort]] = _alone
    opened: list[ConnectedMemifPort] = field(default_factory=list)
    """Those that are open, in the order they came."""

    def __call__(self, netns: Netns) -> Extension:
        @asynccontextmanager
        async def extension(connection: Connection) -> AsyncIterator[Callable[[Connection], None]]:
            address = f"@raw/{connection.id}"
            mode = Mode.IP if connection.payload == constants.IP else Mode.ETHERNET
            spec = MemifPortSpec(role=Role.SERVER, address=address, netns=netns.fileno(), mode=mode)

            def fill_in(again: Connection) -> None:
                view = Memif(again.mechanism)
                view.socket_file = address
                view.inode_url = f"file:///proc/self/fd/{netns.fileno()}"

            fill_in(connection)
            async with self.open(spec) as port:
                self.opened.append(port)
                try:
                    yield fill_in
                finally:
                    self.opened.remove(port)

        return extension


@asynccontextmanager
async def _kernel_end(netns: Netns, name: str, payload: str, mtu_bytes: int) -> AsyncIterator[End]:
    shell = Shell(netns.fileno())
    link = shell.links()[name]
    mac = bytes.fromhex(link["address"].replace(":", ""))
    neighbours = shell.json("ip", "-j", "neigh", "show", "dev", name)
    quiet(shell, name)
    spec = KernelPortSpec(name=name, ifindex=link["ifindex"], netns=netns.fileno(), mtu_bytes=mtu_bytes)
    async with KernelPorts().open(spec) as port:
        with PortIO(port) as io:
            end = End(io=io)
            if payload == constants.IP:
                (ours,) = {each["lladdr"] for each in neighbours if "PERMANENT" in each["state"]}
                gateway = bytes.fromhex(ours.replace(":", ""))
                end = End(io=io, framed=gateway + mac, arrives_with=mac + gateway)
            yield end


async def _flush(source: End, sink: End, payload: str) -> None:
    """Takes away what the kernels said before they were told to be quiet: all that comes before a frame of ours.

    The first may be dropped: one side of a memif knows that it is connected a moment before the other.
    """
    async with asyncio.timeout(10):
        for number in itertools.count():
            last = (b"" if payload == constants.IP else FLUSH_HEADER) + FLUSH_PACKET + number.to_bytes(4, "big")
            assert source.send([last]) == 1
            for _ in range(200):
                if any(frame.endswith(last) for frame in sink.io.read()):
                    return
                await asyncio.sleep(0.0005)


@asynccontextmanager
async def vwire_ends(
    mesh: Domain, netns: Netns, raw: RawMemifEnd, *, client: str, name: str = "nsm-1", mtu_bytes: int = 1500
) -> AsyncIterator[Ends]:
    """Requests a vWire from a pod, and takes hold of both its ends; nothing but the test's frames is on it."""
    async with AsyncExitStack() as stack:
        hop = await stack.enter_async_context(mesh.hop())
        there = set(links(mesh.endpoint_netns))
        preference = kernel(netns, name) if client == "kernel" else memif(netns)
        request = mesh.request(preference, client=name, lifetime_s=3600)  # nobody refreshes it
        request.connection.context.MTU = mtu_bytes
        answer = await hop.request(request, timeout_s=15)

        async def close() -> None:
            await hop.close(answer, timeout_s=15)

        stack.push_async_callback(close)
        payload = mesh.payload
        if client == "kernel":
            near = await stack.enter_async_context(_kernel_end(netns, name, payload, mtu_bytes))
        else:
            spec = MemifPortSpec(
                role=Role.CLIENT,
                address=Memif(answer.mechanism).socket_file,
                netns=netns.fileno(),
                mode=Mode[payload],
            )
            port = await stack.enter_async_context(_alone(spec))
            await port.wait_connected()
            near = End(io=stack.enter_context(PortIO(port)))
        if new := set(links(mesh.endpoint_netns)) - there:
            far = await stack.enter_async_context(_kernel_end(mesh.endpoint_netns, new.pop(), payload, mtu_bytes))
        else:
            await raw.opened[-1].wait_connected()
            far = End(io=stack.enter_context(PortIO(raw.opened[-1])))
        for source, sink in ((near, far), (far, near)):
            await _flush(source, sink, payload)
        yield Ends(client=near, endpoint=far, connection=answer)
