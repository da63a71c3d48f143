"""Every kind of port, opened, with someone at its other end: what the port contract is run on.

A kind is an async context manager that takes a data plane and a mode, and gives a `Rig`. Register
another kind by adding it to `KINDS`.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from forwarder.dataplane import Dataplane, KernelPortSpec, MemifPortSpec, Mode, Port, Role
from forwarder.dataplane.kernel_port import KernelPorts
from tests.support.memif_peer import ClientPeer, ServerPeer
from tests.support.netns import network_namespaces, veth_pair
from tests.support.packet_socket import packet_socket, quiet

_numbers = itertools.count()


class Far(Protocol):
    """Whoever is at the other end. Both methods block."""

    def send_all(self, frames: Sequence[bytes]) -> None: ...

    def receive_all(self, count: int, timeout_s: float = 5.0) -> list[bytes]: ...


@dataclass(kw_only=True)
class Rig:
    """A port and its other end."""

    port: Port
    far: Far
    hang_up: Callable[[], None]
    """Makes the port lose its connection."""
    come_back: Callable[[], None]
    """Connects again after `hang_up`. Blocks, and needs the event loop meanwhile."""
    longest: int
    """The longest frame that the other end takes."""
    finishes: bool
    """Frames leave complete: super-frames are segmented."""
    on_the_way: int
    """How many frames fit between the port and its other end."""

    async def send(self, frames: Sequence[bytes]) -> None:
        """Has the other end send."""
        await asyncio.to_thread(self.far.send_all, frames)

    async def receive(self, count: int, timeout_s: float = 5.0) -> list[bytes]:
        """Waits for frames at the other end; fewer when the time is up."""
        return await asyncio.to_thread(self.far.receive_all, count, timeout_s)


Kind = Callable[[Dataplane, Mode], AbstractAsyncContextManager[Rig]]


def memif_address() -> str:
    """Returns an abstract address that nobody else uses."""
    return f"@vwire-test/{os.getpid()}/{next(_numbers)}"


def memif(role: Role, *, log2: int = 8, buffer_bytes: int = 2048) -> Kind:
    """A memif port; the peer, of the other role, is the one in plain Python."""

    @asynccontextmanager
    async def kind(dataplane: Dataplane, mode: Mode) -> AsyncIterator[Rig]:
        spec = MemifPortSpec(
            role=role, address=memif_address(), mode=mode, log2_ring_size=log2, buffer_bytes=buffer_bytes
        )
        number = 1 if mode is Mode.IP else 0
        server = ServerPeer(spec.address) if role is Role.CLIENT else None

        def connect() -> ClientPeer | ServerPeer:
            if server is not None:
                return server.accept()
            return ClientPeer(spec.address, mode=number, log2=log2, buffer_bytes=buffer_bytes)

        def come_back() -> None:
            rig.far = connect()

        async with dataplane.memif_port(spec) as port:
            peer = await asyncio.to_thread(connect)
            rig = Rig(
                port=port,
                far=peer,
                hang_up=lambda: rig.far.drop() if isinstance(rig.far, ServerPeer) else rig.far.close(),
                come_back=come_back,
                longest=65550,
                finishes=True,
                on_the_way=1 << log2,
            )
            try:
                await asyncio.wait_for(port.wait_connected(), 5)
                yield rig
            finally:
                rig.far.close()

    return kind


class _Link:
    """The pod's side of a veth pair."""

    def __init__(self, sock: object) -> None:
        self._socket = sock

    def send_all(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self._socket.send(frame)  # type: ignore[attr-defined]

    def receive_all(self, count: int, timeout_s: float = 5.0) -> list[bytes]:
        frames: list[bytes] = []
        try:
            while len(frames) < count:
                frames.append(self._socket.receive(timeout_s)[0])  # type: ignore[attr-defined]
        except TimeoutError:
            pass
        return frames


def kernel(*, ring: bool) -> Kind:
    """A kernel port; the other end is a packet socket in the pod. Ethernet mode."""

    @asynccontextmanager
    async def kind(dataplane: Dataplane, mode: Mode) -> AsyncIterator[Rig]:
        assert mode is Mode.ETHERNET
        ports = KernelPorts(ring_rate=0)
        with network_namespaces(2) as (pod, hub):
            veth_pair(pod, hub, names=("eth0", "ours"))
            quiet(hub, "ours")
            quiet(pod, "eth0")
            spec = KernelPortSpec(name="ours", ifindex=hub.ifindex("ours"), netns=hub.fd)
            async with ports.open(spec) as port:
                if ring:
                    await ports.look(1.0)
                    await ports.look(2.0)
                    assert port.ring is not None
                with packet_socket(pod, "eth0") as sock:
                    yield Rig(
                        port=port,
                        far=_Link(sock),
                        hang_up=lambda: hub.run("ip", "link", "set", "ours", "down") and None,
                        come_back=lambda: hub.run("ip", "link", "set", "ours", "up") and None,
                        longest=1514,
                        finishes=False,
                        # A worker that loses its CPU has sent a burst on before it gives the slots back;
                        # a ring has 120.
                        on_the_way=48,
                    )

    return kind


KINDS: dict[str, Kind] = {
    "memif-server": memif(Role.SERVER),
    "memif-client": memif(Role.CLIENT),
    "kernel-queue": kernel(ring=False),
    "kernel-ring": kernel(ring=True),
}
IP_KINDS = ("memif-server", "memif-client")
