"""The messages of memif's control channel: 128 bytes each, to and from plain values.

What a message means, when it is legal and what it may say is judged in `memif_control`; only its
form is judged here. Integers are little-endian: memif never leaves the machine. What stands behind
the last field is zero when sent and ignored when received.

Source: memif.h of VPP, protocol 2.0 (`memif_msg_t` and the structs in its union).
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from forwarder.errors import RemoteProtocolError

MESSAGE_BYTES = 128
VERSION = 0x0200
"""Major version in the high byte; the only one there is."""
SECRET_BYTES = 24
NAME_BYTES = 32
REASON_BYTES = 96

_RING_TO_SERVER = 1
"""`MEMIF_MSG_ADD_RING_FLAG_S2M`."""


class MessageType(IntEnum):
    """The first two bytes of a message (`memif_msg_type_t`)."""

    ACK = 1
    HELLO = 2
    INIT = 3
    ADD_REGION = 4
    ADD_RING = 5
    CONNECT = 6
    CONNECTED = 7
    DISCONNECT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Server to client: INIT, ADD_REGION or ADD_RING was taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Server to client, first of all: what the server can do (`memif_msg_hello_t`)."""

    name: bytes
    """The program's name, for display."""
    min_version: int = VERSION
    max_version: int = VERSION
    max_region: int
    """Highest region index."""
    max_to_client_ring: int
    """Highest index of a ring towards the client (`max_m2s_ring`)."""
    max_to_server_ring: int
    """Highest index of a ring towards the server (`max_s2m_ring`)."""
    max_log2_ring_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """Client to server: which interface it wants (`memif_msg_init_t`)."""

    version: int = VERSION
    interface_id: int
    mode: int
    """0 Ethernet, 1 IP, 2 punt and inject."""
    secret: bytes = field(repr=False)
    """All 24 bytes, padded with zeros."""
    name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRegion:
    """Client to server, with a memfd: shared memory (`memif_msg_add_region_t`)."""

    index: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRing:
    """Client to server, with an eventfd: a ring inside a region (`memif_msg_add_ring_t`)."""

    to_server: bool
    """The client fills it (S2M); otherwise the server does (M2S)."""
    index: int
    """Counted per direction."""
    region: int
    offset: int
    """Bytes from the start of the region."""
    log2_ring_size: int
    private_hdr_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Client to server: everything has been added (`memif_msg_connect_t`)."""

    interface: bytes
    """The client's interface name, for display."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """Server to client: the memory is mapped, frames may pass (`memif_msg_connected_t`)."""

    interface: bytes
    """The server's interface name, for display."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """Either way: the sender is about to close (`memif_msg_disconnect_t`)."""

    code: int = 0
    reason: bytes


Message = Ack | Hello | Init | AddRegion | AddRing | Connect | Connected | Disconnect

_ACK = struct.Struct("<H")
_HELLO = struct.Struct("<H32sHHHHHB")
_INIT = struct.Struct("<HHIB24s32s")
_ADD_REGION = struct.Struct("<HHQ")
_ADD_RING = struct.Struct("<HHHHIBH")
_CONNECT = struct.Struct("<H32s")
_DISCONNECT = struct.Struct("<HI96s")


def message_type(message: Message) -> MessageType:
    """Returns the type that `message` has on the wire."""
    return _TYPES[type(message)]


def encode(message: Message) -> bytes:
    """Encodes `message` as 128 bytes.

    Names and reasons are cut so that a terminating zero fits.
    """
    kind = message_type(message)
    match message:
        case Ack():
            body = _ACK.pack(kind)
        case Hello():
            body = _HELLO.pack(
                kind,
                _text(message.name, NAME_BYTES),
                message.min_version,
                message.max_version,
                message.max_region,
                message.max_to_client_ring,
                message.max_to_server_ring,
                message.max_log2_ring_size,
            )
        case Init():
            body = _INIT.pack(
                kind,
                message.version,
                message.interface_id,
                message.mode,
                message.secret,
                _text(message.name, NAME_BYTES),
            )
        case AddRegion():
            body = _ADD_REGION.pack(kind, message.index, message.size)
        case AddRing():
            body = _ADD_RING.pack(
                kind,
                _RING_TO_SERVER if message.to_server else 0,
                message.index,
                message.region,
                message.offset,
                message.log2_ring_size,
                message.private_hdr_size,
            )
        case Connect() | Connected():
            body = _CONNECT.pack(kind, _text(message.interface, NAME_BYTES))
        case Disconnect():
            body = _DISCONNECT.pack(kind, message.code, _text(message.reason, REASON_BYTES))
    return body.ljust(MESSAGE_BYTES, b"\0")


def decode(data: bytes) -> Message:
    """Decodes one control message.

    `data` is what one receive returned. Raises RemoteProtocolError if it is not 128 bytes long or
    its type is unknown; any other bit pattern is a value, to be judged by the state machine.
    """
    if len(data) != MESSAGE_BYTES:
        raise RemoteProtocolError(f"memif message of {len(data)} bytes instead of {MESSAGE_BYTES}")
    (number,) = _ACK.unpack_from(data)
    try:
        kind = MessageType(number)
    except ValueError as error:
        raise RemoteProtocolError(f"memif message of unknown type {number}") from error
    return _DECODERS[kind](data)


def printable(name: bytes) -> str:
    """Returns a peer's name or reason for display: printable ASCII, everything else as `\\xNN`."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte != 0x5C else f"\\x{byte:02x}" for byte in name)


def _text(text: bytes, size: int) -> bytes:
    """Cuts `text` to a field of `size` bytes that ends in a zero."""
    return text.split(b"\0", 1)[0][: size - 1]


def _decode_ack(_: bytes) -> Message:
    return Ack()


def _decode_hello(data: bytes) -> Message:
    _, name, low, high, region, to_client, to_server, log2 = _HELLO.unpack_from(data)
    return Hello(
        name=_text(name, NAME_BYTES),
        min_version=low,
        max_version=high,
        max_region=region,
        max_to_client_ring=to_client,
        max_to_server_ring=to_server,
        max_log2_ring_size=log2,
    )


def _decode_init(data: bytes) -> Message:
    _, version, interface_id, mode, secret, name = _INIT.unpack_from(data)
    return Init(version=version, interface_id=interface_id, mode=mode, secret=secret, name=_text(name, NAME_BYTES))


def _decode_add_region(data: bytes) -> Message:
    _, index, size = _ADD_REGION.unpack_from(data)
    return AddRegion(index=index, size=size)


def _decode_add_ring(data: bytes) -> Message:
    _, flags, index, region, offset, log2, private = _ADD_RING.unpack_from(data)
    return AddRing(
        to_server=bool(flags & _RING_TO_SERVER),
        index=index,
        region=region,
        offset=offset,
        log2_ring_size=log2,
        private_hdr_size=private,
    )


def _decode_connect(data: bytes) -> Message:
    return Connect(interface=_text(_CONNECT.unpack_from(data)[1], NAME_BYTES))


def _decode_connected(data: bytes) -> Message:
    return Connected(interface=_text(_CONNECT.unpack_from(data)[1], NAME_BYTES))


def _decode_disconnect(data: bytes) -> Message:
    _, code, reason = _DISCONNECT.unpack_from(data)
    return Disconnect(code=code, reason=_text(reason, REASON_BYTES))


_TYPES: dict[type[Message], MessageType] = {
    Ack: MessageType.ACK,
    Hello: MessageType.HELLO,
    Init: MessageType.INIT,
    AddRegion: MessageType.ADD_REGION,
    AddRing: MessageType.ADD_RING,
    Connect: MessageType.CONNECT,
    Connected: MessageType.CONNECTED,
    Disconnect: MessageType.DISCONNECT,
}

_DECODERS = {
    MessageType.ACK: _decode_ack,
    MessageType.HELLO: _decode_hello,
    MessageType.INIT: _decode_init,
    MessageType.ADD_REGION: _decode_add_region,
    MessageType.ADD_RING: _decode_add_ring,
    MessageType.CONNECT: _decode_connect,
    MessageType.CONNECTED: _decode_connected,
    MessageType.DISCONNECT: _decode_disconnect,
}
