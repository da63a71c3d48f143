"""A host on a memif port: an application without a kernel interface.

```
memif port ── PortIO ── MemifHost ──┬── Host: answers ARP, ND, echo requests
                                    └── received: what is left, for a Pinger or whoever
```

The port is driven by the event loop, without a worker.
"""

import asyncio
import os
import secrets
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_interface
from typing import Final

from forwarder.api import constants
from forwarder.api.connection_pb2 import Connection
from forwarder.api.mechanisms import Memif
from forwarder.dataplane import ConnectedMemifPort, MemifPortSpec, Mode, Port, PortIO, Role
from forwarder.dataplane.memif_listener import MemifListeners
from forwarder.dataplane.memif_port import open_memif_port
from forwarder.errors import ConfigError, DataplaneError
from forwarder.mesh import responder
from forwarder.mesh.endpoint import Extension, Refresh
from forwarder.mesh.responder import EchoReply, Host
from forwarder.netns import Netns

ROUNDS_PER_WAKE: Final = 16
"""Bursts handled before the event loop gets its turn."""
ASK_AGAIN_S: Final = 0.2
"""How long an ARP request or neighbour solicitation may stay unanswered before the next."""


class MemifHost:
    """Answers for `host` on one port, and hands everything else to `received`."""

    def __init__(self, port: ConnectedMemifPort, host: Host) -> None:
        """Does nothing before `running` is entered."""
        self.port = port
        self.host = host
        """May be replaced while running."""
        self.received: Callable[[bytes], None] = lambda _frame: None
        self._io = PortIO(port)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None

    def close(self) -> None:
        """Lets go of the port."""
        self._loop.remove_reader(self._io.fileno())
        if self._again is not None:
            self._again.cancel()
        self._io.close()

    def start(self) -> None:
        """Begins to read."""
        self._loop.add_reader(self._io.fileno(), self._readable)

    def send(self, frames: Sequence[bytes]) -> int:
        """Sends frames without waiting; returns how many found room."""
        taken: int = self._io.write(frames)
        return taken

    def _readable(self) -> None:
        self._again = None
        for _ in range(ROUNDS_PER_WAKE):
            frames = self._io.read()
            if not frames:
                return
            answers = []
            for frame in frames:
                answer = self._answer(frame)
                if answer is None:
                    self.received(frame)
                else:
                    answers.append(answer)
            if answers:
                self.send(answers)  # like any host, drops what finds no room
        # Frames may be left that no event will tell of again.
        self._again = self._loop.call_soon(self._readable)

    def _answer(self, frame: bytes) -> bytes | None:
        if self.port.ip_mode:
            return self.host.answer_packet(frame)
        return self.host.answer_frame(frame)


@asynccontextmanager
async def memif_host(spec: MemifPortSpec, host: Host) -> AsyncIterator[MemifHost]:
    """Opens a memif port with a host on it, without waiting for the peer.

    Raises DataplaneError when the address cannot be used.
    """
    async with open_memif_port(spec, MemifListeners(), _settled) as port:
        application = MemifHost(port, host)
        try:
            application.start()
            yield application
        finally:
            application.close()


async def _settled(_port: Port, _generation: int) -> None:
    """Waits for no worker: the port is driven from the thread that asks."""


def memif_end(netns: Netns) -> Extension:
    """Listens for each connection on an abstract socket in `netns`, and answers on its vWire."""

    @asynccontextmanager
    async def memif(connection: Connection) -> AsyncIterator[Refresh]:
        socket = f"@{tempfile.gettempdir()}/memif/{connection.id}/memif.socket"
        spec = MemifPortSpec(
            role=Role.SERVER,
            address=socket,
            netns=netns.fileno(),
            mode=Mode.IP if connection.payload == constants.IP else Mode.ETHERNET,
            name=connection.network_service_endpoint_name[:31] or "endpoint",
        )

        def host_of(again: Connection) -> Host:
            view = Memif(again.mechanism)
            view.socket_file = socket
            view.inode_url = f"file:///proc/self/fd/{netns.fileno()}"
            mac = again.context.ethernet_context.dst_mac.replace(":", "")
            return Host.of(
                bytes.fromhex(mac) if mac else responder.mac_of(again.id), again.context.ip_context.dst_ip_addrs
            )

        async with memif_host(spec, host_of(connection)) as application:

            def refresh(again: Connection) -> None:
                application.host = host_of(again)

            yield refresh

    return memif


@dataclass(slots=True, kw_only=True)
class PingReport:
    """What came of a series of echo requests."""

    sent: int = 0
    round_trips_s: list[float] = field(default_factory=list)
    """One for each that was answered."""

    @property
    def received(self) -> int:
        """Returns how many were answered."""
        return len(self.round_trips_s)

    def __str__(self) -> str:
        lost = 100 * (self.sent - self.received) / self.sent if self.sent else 0
        text = f"{self.sent} packets transmitted, {self.received} received, {lost:.3g}% packet loss"
        if self.round_trips_s:
            times = [1000 * seconds for seconds in self.round_trips_s]
            text += f"\nrtt min/avg/max = {min(times):.3f}/{sum(times) / len(times):.3f}/{max(times):.3f} ms"
        return text


class Pinger:
    """Sends echo requests to one target through a MemifHost."""

    def __init__(self, application: MemifHost, *, source: str, target: str) -> None:
        """Takes over what `application` receives. Addresses are of one family.

        Raises ConfigError if they are not, or are none.
        """
        try:
            own, other = ip_interface(source).ip, ip_interface(target).ip
        except ValueError as error:
            raise ConfigError("address to ping from or to", detail=str(error)) from error
        if own.version != other.version:
            raise ConfigError(f"{target} cannot be pinged from {source}", detail="they are of different families")
        self.report = PingReport()
        self._application = application
        self._source, self._target = str(own), str(other)
        self._target_packed = other.packed
        self._is_ipv4 = isinstance(other, IPv4Address)
        self._identifier = secrets.randbelow(1 << 16)
        self._neighbour: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting: dict[int, tuple[float, asyncio.Future[float]]] = {}
        application.received = self._received

    async def resolve(self) -> None:
        """Finds the target's hardware address, asking until it answers; nothing to do in IP mode."""
        if self._application.port.ip_mode:
            return
        ask = responder.arp_request if self._is_ipv4 else responder.neighbour_solicitation
        question = ask(mac=self._application.host.mac, source=self._source, target=self._target)
        while not self._neighbour.done():
            self._application.send([question])
            await asyncio.wait([self._neighbour], timeout=ASK_AGAIN_S)

    async def ping(self, sequence: int, *, size: int, timeout_s: float) -> float | None:
        """Sends one echo request with `size` bytes of data; returns the round trip, None if there was no answer.

        `resolve` must have returned. The data that came back is compared.
        """
        data = (struct.pack("!Q", sequence) + bytes(range(256)) * (size // 256 + 1))[:size]
        packet = responder.echo_request(
            source=self._source,
            destination=self._target,
            identifier=self._identifier,
            sequence=sequence & 0xFFFF,
            data=data,
        )
        if not self._application.port.ip_mode:
            ethertype = responder.ETHERTYPE_IPV4 if self._is_ipv4 else responder.ETHERTYPE_IPV6
            packet = self._neighbour.result() + self._application.host.mac + ethertype.to_bytes(2, "big") + packet
        answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.report.sent += 1
        self._waiting[sequence & 0xFFFF] = (time.perf_counter(), answered)
        try:
            if not self._application.send([packet]):
                return None
            async with asyncio.timeout(timeout_s):
                round_trip = await answered
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(sequence & 0xFFFF, None)
        self.report.round_trips_s.append(round_trip)
        return round_trip

    def _received(self, frame: bytes) -> None:
        if self._application.port.ip_mode:
            self._echo(responder.parse_echo_reply(frame))
            return
        neighbour = responder.parse_neighbour(frame)
        if neighbour is not None:
            if neighbour[0] == self._target_packed and not self._neighbour.done():
                self._neighbour.set_result(neighbour[1])
            return
        self._echo(responder.parse_echo_reply(frame[responder.ETHERNET_HEADER :]))

    def _echo(self, reply: EchoReply | None) -> None:
        if reply is None or reply.identifier != self._identifier or reply.source != self._target_packed:
            return
        began, answered = self._waiting.get(reply.sequence, (0.0, None))
        if answered is not None and not answered.done():
            answered.set_result(time.perf_counter() - began)


def socket_of(text: str) -> str:
    """Returns a memif socket as the user wrote it: `@name`, or a path made absolute.

    Raises DataplaneError for an empty one.
    """
    if text.startswith("@"):
        return text
    if not text:
        raise DataplaneError("memif socket '' is not a usable address")
    return os.path.abspath(text)
