"""The two ends of memif's control channel as state machines, without a socket or a clock.

Bytes and descriptors come in with `receive`, messages go out with `messages_to_send`, and what the
program has to know or do comes out of `next_event`. Whoever drives a machine handles its events
*before* it sends its messages: an event is a chance to refuse, and a refusal replaces the answer.

    client                                server
                                  <-----  HELLO
    INIT(id, mode, secret)        ----->            InterfaceChosen: claim it, or refuse
                                  <-----  ACK
    MemoryWanted: allocate, `offer`
    ADD_REGION + memfd            ----->            RegionAdded: look at the memfd, or refuse
    ADD_RING + eventfd            ----->            RingAdded
                                  <-----  ACK       one for each
    CONNECT                       ----->            MemoryOffered: map it, `accept` or refuse
    Connected                     <-----  CONNECTED

The client waits for each ACK before it sends the next message (lock-step); the server also takes
them all at once. Any violation ends the connection with a DISCONNECT that names it. Descriptors
received belong to the machine until MemoryOffered hands them over; on every other way out they are
closed. Peers are not trusted: everything here that comes from one is bounded.

Source: memif.h of VPP, protocol 2.0.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hmac import compare_digest

from forwarder.dataplane.memif_messages import (
    SECRET_BYTES,
    VERSION,
    Ack,
    AddRegion,
    AddRing,
    Connect,
    Connected,
    Disconnect,
    Hello,
    Init,
    Message,
    MessageType,
    decode,
    encode,
    message_type,
    printable,
)
from forwarder.dataplane.spec import Mode
from forwarder.errors import LocalProtocolError, RemoteProtocolError

RING_HEADER_BYTES = 128
DESCRIPTOR_BYTES = 16
RING_ALIGNMENT = 16
"""Least alignment of a ring: keeps every index and descriptor inside one cache line."""
MAX_LOG2_RING_SIZE = 14
REGION_BYTES_MAX = 1 << 32
"""A descriptor's offset has 32 bits; what lies beyond could not be addressed."""

_MODES = {Mode.ETHERNET: 0, Mode.IP: 1}
_WITH_DESCRIPTOR = frozenset({MessageType.ADD_REGION, MessageType.ADD_RING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may ask of us on one connection."""

    rings: int = 1
    """Rings in each direction."""
    log2_ring_size: int = MAX_LOG2_RING_SIZE
    regions: int = 16
    region_bytes: int = 1 << 30
    total_bytes: int = 4 << 30
    """Sum over the regions of one connection."""
    handshake_s: float = 5.0
    """From the first byte to CONNECTED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One interface behind a listening socket, or the one that a client asks for."""

    interface_id: int
    mode: Mode
    secret: bytes = field(default=b"", repr=False)
    """At most 24 bytes; empty: the server lets anyone in, the client sends zeros."""
    name: str = "vwire"
    """Shown to the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Shared memory, by descriptor."""

    index: int
    size: int
    """Bytes."""
    fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A ring inside a region, and the eventfd that wakes its receiver."""

    to_server: bool
    """The client sends frames on it; otherwise the server does."""
    index: int
    region: int
    offset: int
    log2_ring_size: int
    fd: int

    @property
    def end(self) -> int:
        """The first byte behind the ring, from the start of its region."""
        return self.offset + RING_HEADER_BYTES + (DESCRIPTOR_BYTES << self.log2_ring_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything the two ends share: regions by index, then rings, those to the server first."""

    regions: tuple[Region, ...]
    rings: tuple[Ring, ...]

    @property
    def fds(self) -> tuple[int, ...]:
        """All descriptors: memfds, then eventfds."""
        return (*(region.fd for region in self.regions), *(ring.fd for ring in self.rings))

    def close(self) -> None:
        """Closes all descriptors; for their owner, once."""
        for fd in self.fds:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to send, and the descriptor that goes with it; the descriptor stays the sender's."""

    data: bytes
    fds: tuple[int, ...] = ()


_ACK = Outgoing(data=encode(Ack()))


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceChosen:
    """Server: the peer knows the id and the secret. Refuse with `disconnect` if it is taken."""

    interface: Interface
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionAdded:
    """Server: a region's bounds are right. Its descriptor, borrowed, has not been looked at."""

    region: Region


@dataclass(frozen=True, slots=True, kw_only=True)
class RingAdded:
    """Server: a ring's bounds are right. Its descriptor, borrowed, has not been looked at."""

    ring: Ring


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOffered:
    """Server: all is there. The receiver of this event owns the descriptors from here on.

    Answer with `accept` once the memory is mapped, or with `disconnect`.
    """

    memory: Memory
    peer_interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWanted:
    """Client: let in. Answer with `offer`, or with `disconnect`."""

    to_server_rings: int
    to_client_rings: int
    log2_ring_size: int
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Established:
    """Both: frames may pass."""

    peer_interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """Both: the end; nothing else follows."""

    reason: str
    by_peer: bool


Event = InterfaceChosen | RegionAdded | RingAdded | MemoryOffered | MemoryWanted | Established | Disconnected


class State(Enum):
    """Where a connection stands. The names say what is waited for."""

    AWAIT_INIT = "server: for INIT"
    AWAIT_MEMORY = "server: for regions, rings and CONNECT"
    AWAIT_ACCEPT = "server: for our own `accept`"
    AWAIT_HELLO = "client: for HELLO"
    AWAIT_ADMISSION = "client: for the ACK of INIT"
    AWAIT_OFFER = "client: for our own `offer`"
    AWAIT_ACK = "client: for the ACK of a region or ring"
    AWAIT_CONNECTED = "client: for CONNECTED"
    CONNECTED = "both: nothing but the end"
    CLOSED = "both: ended"


Transitions = Mapping[tuple[State, MessageType], State]

# What a peer may send, and the state it leads to. Whatever is not here is a violation; so is, at
# the server, everything after CONNECT: no implementation renegotiates. DISCONNECT is legal always.
SERVER_TRANSITIONS: Transitions = {
    (State.AWAIT_INIT, MessageType.INIT): State.AWAIT_MEMORY,
    (State.AWAIT_MEMORY, MessageType.ADD_REGION): State.AWAIT_MEMORY,
    (State.AWAIT_MEMORY, MessageType.ADD_RING): State.AWAIT_MEMORY,
    (State.AWAIT_MEMORY, MessageType.CONNECT): State.AWAIT_ACCEPT,
}
# AWAIT_ACK ends in AWAIT_CONNECTED by our own CONNECT, sent when the last ACK has come.
CLIENT_TRANSITIONS: Transitions = {
    (State.AWAIT_HELLO, MessageType.HELLO): State.AWAIT_ADMISSION,
    (State.AWAIT_ADMISSION, MessageType.ACK): State.AWAIT_OFFER,
    (State.AWAIT_ACK, MessageType.ACK): State.AWAIT_ACK,
    (State.AWAIT_CONNECTED, MessageType.CONNECTED): State.CONNECTED,
}


class _End:
    """What both ends have: messages and events waiting, descriptors held, a deadline, an end."""

    _transitions: Transitions

    def __init__(self, state: State, limits: Limits, now: float, close: Callable[[int], None] = os.close) -> None:
        self.state = state
        self.deadline: float | None = now + limits.handshake_s
        """When `handle_timer` has to be called, on the clock of `now`; None for never."""
        self._limits = limits
        self._close = close
        self._held: list[int] = []
        self._outgoing: list[Outgoing] = []
        self._events: list[Event] = []

    def receive(self, data: bytes, fds: Sequence[int], *, truncated: bool = False) -> None:
        """Takes one message and the descriptors that came with it; never raises for what a peer sends.

        `truncated` says that the message or its descriptors did not fit the receive buffers. Empty
        `data` is the end of the stream.
        """
        self._held.extend(fds)
        if self.state is State.CLOSED:
            self._close_held()
            return
        if not data and not truncated:
            self._finish("the peer closed the connection", by_peer=True)
            return
        try:
            if truncated:
                raise RemoteProtocolError("memif message or its descriptors too long")
            message = decode(data)
            self._admit(message, fds)
        except RemoteProtocolError as error:
            self.disconnect(error.message)

    def lost(self, reason: str) -> None:
        """Takes note that the socket broke: the same end as an orderly one."""
        self._finish(reason, by_peer=True)

    def handle_timer(self, now: float) -> None:
        """Ends a handshake that has taken too long."""
        if self.deadline is not None and now >= self.deadline:
            self.disconnect(f"handshake not finished within {self._limits.handshake_s:g} s")

    def disconnect(self, reason: str) -> None:
        """Ends the connection from our side; does nothing if it has ended.

        The DISCONNECT replaces what was to be sent.
        """
        if self.state is State.CLOSED:
            return
        self._outgoing.clear()
        self._send(Disconnect(reason=reason.encode("ascii", "backslashreplace")))
        self._finish(reason, by_peer=False)

    def messages_to_send(self) -> list[Outgoing]:
        """Returns and forgets the messages that wait to be sent, in order."""
        messages, self._outgoing = self._outgoing, []
        return messages

    def next_event(self) -> Event | None:
        """Returns and forgets the oldest event, if there is one."""
        return self._events.pop(0) if self._events else None

    def _admit(self, message: Message, fds: Sequence[int]) -> None:
        """Checks that `message` is legal now, moves on, and acts on it."""
        kind = message_type(message)
        expected = 1 if kind in _WITH_DESCRIPTOR else 0
        if isinstance(message, Disconnect):
            self._finish(printable(message.reason) or "the peer disconnected", by_peer=True)
            return
        after = self._transitions.get((self.state, kind))
        if after is None:
            raise RemoteProtocolError(f"memif {kind.name} in state {self.state.name}")
        if len(fds) != expected:
            raise RemoteProtocolError(f"memif {kind.name} with {len(fds)} descriptors instead of {expected}")
        self.state = after
        self._act(message, fds)

    def _act(self, message: Message, fds: Sequence[int]) -> None:
        raise NotImplementedError

    def _send(self, message: Message, *fds: int) -> None:
        self._outgoing.append(Outgoing(data=encode(message), fds=fds))

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _expect(self, state: State, verb: str) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"memif {verb} in state {self.state.name} instead of {state.name}")

    def _finish(self, reason: str, *, by_peer: bool) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self.deadline = None
        self._close_held()
        self._take_back_offer()
        self._emit(Disconnected(reason=reason, by_peer=by_peer))

    def _take_back_offer(self) -> None:
        """Closes what a MemoryOffered that nobody has seen yet would have handed over."""
        for event in [event for event in self._events if isinstance(event, MemoryOffered)]:
            self._events.remove(event)
            for fd in event.memory.fds:
                self._close(fd)

    def _close_held(self) -> None:
        while self._held:
            self._close(self._held.pop())


class MemifServer(_End):
    """The listening end of one accepted connection: judges what a client offers."""

    _transitions = SERVER_TRANSITIONS

    def __init__(
        self,
        find: Callable[[int], Interface | None],
        *,
        now: float,
        name: str = "vwire",
        limits: Limits = Limits(),
        close: Callable[[int], None] = os.close,
    ) -> None:
        """Greets the client.

        `find` looks an interface up by its id; `close` closes a descriptor; `now` is any monotonic
        time in seconds, the same for all calls.
        """
        super().__init__(State.AWAIT_INIT, limits, now, close)
        self._find = find
        self._interface: Interface | None = None
        self._regions: list[Region] = []
        self._rings: list[Ring] = []
        self._send(
            Hello(
                name=name.encode(),
                max_region=limits.regions - 1,
                max_to_client_ring=limits.rings - 1,
                max_to_server_ring=limits.rings - 1,
                max_log2_ring_size=limits.log2_ring_size,
            )
        )

    def accept(self) -> None:
        """Tells the client that its memory is mapped and frames may pass.

        Raises LocalProtocolError unless MemoryOffered was the last event.
        """
        self._expect(State.AWAIT_ACCEPT, "accept")
        assert self._interface is not None
        self.state = State.CONNECTED
        self.deadline = None
        self._send(Connected(interface=self._interface.name.encode()))
        self._emit(Established(peer_interface=self._peer_interface))

    def _act(self, message: Message, fds: Sequence[int]) -> None:
        match message:
            case Init():
                self._init(message)
            case AddRegion():
                self._add_region(message, fds[0])
            case AddRing():
                self._add_ring(message, fds[0])
            case Connect():
                self._connect(message)

    def _init(self, message: Init) -> None:
        """Checks version, id and secret, then mode."""
        if message.version != VERSION:
            raise RemoteProtocolError(f"memif version {message.version:#06x} instead of {VERSION:#06x}")
        interface = self._find(message.interface_id)
        # An unknown id and a wrong secret take the same way and get the same answer, so that
        # neither the time nor the text tells which ids exist.
        wanted = interface.secret if interface is not None else os.urandom(SECRET_BYTES)
        matches = compare_digest(wanted.ljust(SECRET_BYTES, b"\0"), message.secret)
        open_to_all = interface is not None and not interface.secret
        if interface is None or not (matches or open_to_all):
            raise RemoteProtocolError(f"no memif interface {message.interface_id} with this secret")
        if message.mode != _MODES[interface.mode]:
            raise RemoteProtocolError(
                f"memif mode {message.mode} instead of {_MODES[interface.mode]} ({interface.mode.value})"
            )
        self._interface = interface
        self._emit(InterfaceChosen(interface=interface, peer=printable(message.name)))
        self._outgoing.append(_ACK)

    def _add_region(self, message: AddRegion, fd: int) -> None:
        limits = self._limits
        what = f"memif region {message.index}"
        if message.index != len(self._regions):
            raise RemoteProtocolError(f"{what} out of order, {len(self._regions)} was next")
        if message.index >= limits.regions:
            raise RemoteProtocolError(f"{what}: more than {limits.regions} regions")
        if not 0 < message.size <= min(limits.region_bytes, REGION_BYTES_MAX):
            raise RemoteProtocolError(f"{what} of {message.size} bytes, not within 1..{limits.region_bytes}")
        total = sum(region.size for region in self._regions) + message.size
        if total > limits.total_bytes:
            raise RemoteProtocolError(f"{what}: {total} bytes in all regions, more than {limits.total_bytes}")
        region = Region(index=message.index, size=message.size, fd=fd)
        self._regions.append(region)
        self._emit(RegionAdded(region=region))
        self._outgoing.append(_ACK)

    def _add_ring(self, message: AddRing, fd: int) -> None:
        limits = self._limits
        what = f"memif ring {'to server' if message.to_server else 'to client'} {message.index}"
        same_way = sum(ring.to_server == message.to_server for ring in self._rings)
        if message.index != same_way:
            raise RemoteProtocolError(f"{what} out of order, {same_way} was next")
        if message.index >= limits.rings:
            raise RemoteProtocolError(f"{what}: more than {limits.rings} in this direction")
        if message.private_hdr_size != 0:
            raise RemoteProtocolError(f"{what}: private header of {message.private_hdr_size} bytes")
        if not 1 <= message.log2_ring_size <= limits.log2_ring_size:
            raise RemoteProtocolError(
                f"{what}: size 2^{message.log2_ring_size}, not within 2^1..2^{limits.log2_ring_size}"
            )
        if message.region >= len(self._regions):
            raise RemoteProtocolError(f"{what}: region {message.region} was not added")
        if message.offset % RING_ALIGNMENT:
            raise RemoteProtocolError(f"{what}: offset {message.offset} is not a multiple of {RING_ALIGNMENT}")
        ring = Ring(
            to_server=message.to_server,
            index=message.index,
            region=message.region,
            offset=message.offset,
            log2_ring_size=message.log2_ring_size,
            fd=fd,
        )
        size = self._regions[ring.region].size
        if ring.end > size:
            raise RemoteProtocolError(f"{what} ends at {ring.end}, behind its region of {size} bytes")
        for other in self._rings:
            if other.region == ring.region and other.offset < ring.end and ring.offset < other.end:
                raise RemoteProtocolError(f"{what} at {ring.offset} overlaps another ring")
        self._rings.append(ring)
        self._emit(RingAdded(ring=ring))
        self._outgoing.append(_ACK)

    def _connect(self, message: Connect) -> None:
        to_server = sum(ring.to_server for ring in self._rings)
        if not to_server or to_server == len(self._rings):
            raise RemoteProtocolError(
                f"memif CONNECT with {to_server} rings to the server and "
                f"{len(self._rings) - to_server} to the client, one each is needed"
            )
        self._peer_interface = printable(message.interface)
        # Descriptors leave the machine with the event; if the end comes before anyone has seen
        # it, _take_back_offer finds them there.
        self._held.clear()
        rings = sorted(self._rings, key=lambda ring: (not ring.to_server, ring.index))
        memory = Memory(regions=tuple(self._regions), rings=tuple(rings))
        self._emit(MemoryOffered(memory=memory, peer_interface=self._peer_interface))


class MemifClient(_End):
    """The connecting end: asks for an interface, and offers the memory that both will use."""

    _transitions = CLIENT_TRANSITIONS

    def __init__(
        self,
        interface: Interface,
        *,
        now: float,
        name: str = "vwire",
        rings: int = 1,
        log2_ring_size: int = 10,
        limits: Limits = Limits(),
        close: Callable[[int], None] = os.close,
    ) -> None:
        """Waits for the server's HELLO. `rings` are per direction, and at most what the server takes."""
        super().__init__(State.AWAIT_HELLO, limits, now, close)
        self._interface = interface
        self._name = name
        self._rings = rings
        self._log2_ring_size = log2_ring_size
        self._to_offer: list[tuple[Message, int]] = []
        self._wanted: MemoryWanted | None = None

    def offer(self, memory: Memory) -> None:
        """Starts to hand `memory` to the server, one message per ACK; then asks to connect.

        The descriptors stay the caller's and must be open until Established or Disconnected.
        Raises LocalProtocolError unless MemoryWanted was the last event.
        """
        self._expect(State.AWAIT_OFFER, "offer")
        self.state = State.AWAIT_ACK
        self._to_offer.extend((AddRegion(index=region.index, size=region.size), region.fd) for region in memory.regions)
        self._to_offer.extend(
            (
                AddRing(
                    to_server=ring.to_server,
                    index=ring.index,
                    region=ring.region,
                    offset=ring.offset,
                    log2_ring_size=ring.log2_ring_size,
                ),
                ring.fd,
            )
            for ring in memory.rings
        )
        self._offer_next()

    def _act(self, message: Message, fds: Sequence[int]) -> None:
        match message:
            case Hello():
                self._hello(message)
            case Ack() if self.state is State.AWAIT_OFFER:
                assert self._wanted is not None
                self._emit(self._wanted)
            case Ack():
                self._offer_next()
            case Connected():
                self.deadline = None
                self._emit(Established(peer_interface=printable(message.interface)))

    def _hello(self, message: Hello) -> None:
        if not message.min_version <= VERSION <= message.max_version:
            raise RemoteProtocolError(
                f"memif versions {message.min_version:#x}..{message.max_version:#x} without {VERSION:#x}"
            )
        if message.max_log2_ring_size < 1:
            raise RemoteProtocolError(f"memif rings of at most 2^{message.max_log2_ring_size} slots")
        self._wanted = MemoryWanted(
            to_server_rings=min(self._rings, message.max_to_server_ring + 1),
            to_client_rings=min(self._rings, message.max_to_client_ring + 1),
            log2_ring_size=min(self._log2_ring_size, message.max_log2_ring_size),
            peer=printable(message.name),
        )
        self._send(
            Init(
                interface_id=self._interface.interface_id,
                mode=_MODES[self._interface.mode],
                secret=self._interface.secret,
                name=self._name.encode(),
            )
        )

    def _offer_next(self) -> None:
        if self._to_offer:
            message, fd = self._to_offer.pop(0)
            self._send(message, fd)
        else:
            self.state = State.AWAIT_CONNECTED
            self._send(Connect(interface=self._interface.name.encode()))
