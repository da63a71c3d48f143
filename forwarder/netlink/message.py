"""Encodes and decodes rtnetlink messages: header, fixed part, attributes.

Only bytes in and bytes out. Integers are in the machine's byte order, as the kernel has them;
every part is padded to four bytes.

A message costs a few microseconds here. pyroute2 takes 150 (0.15 s and 12 MB to import it),
which at two dozen messages for each vWire was most of the set-up time; the unit tests hold
every message of this room against pyroute2's own idea of it.

Source: netlink(7), rtnetlink(7), linux/netlink.h.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_ECHO: Final = 0x8
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1
_NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK: Final = 0x3FFF

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_ERROR: Final = struct.Struct("=i")

HEADER_BYTES: Final = _HEADER.size

Attributes = Mapping[int, bytes]
"""The attributes of a message or of a nest: type to payload, the last one wins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question or order to the kernel, not sent yet."""

    type: int
    """An RTM_ number."""
    flags: int
    """NLM_F_ flags beside REQUEST and ACK."""
    body: bytes
    """Fixed part and attributes."""
    what: str
    """Verb and object, for messages: "add address 10.0.0.1/32 to nsm-1"."""
    tolerate: frozenset[int] = frozenset()
    """Error numbers that mean that it is so already; then there is no reply and no failure."""

    def encode(self, sequence: int) -> bytes:
        """Returns the message as it goes to the kernel, which will answer with `sequence`."""
        flags = self.flags | NLM_F_REQUEST | (0 if self.is_dump else NLM_F_ACK)
        length = HEADER_BYTES + len(self.body)
        return _HEADER.pack(length, self.type, flags, sequence, 0) + self.body + bytes(-length % 4)

    @property
    def is_dump(self) -> bool:
        """Whether the answer is a list of any length: RTM_ numbers come in fours, the third asks."""
        return self.type & 3 == 2 and self.flags & NLM_F_DUMP == NLM_F_DUMP


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message from the kernel."""

    type: int
    flags: int
    sequence: int
    body: bytes

    @property
    def ends(self) -> bool:
        """Whether no more messages follow for this request."""
        return self.type in (NLMSG_ERROR, NLMSG_DONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The kernel's last word on a request."""

    errno: int
    """0 when it was done."""
    text: str
    """What the kernel says about it, often empty."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Encodes one attribute with its padding."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def nested(kind: int, *children: bytes) -> bytes:
    """Encodes an attribute that consists of attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(children))


def u8(kind: int, value: int) -> bytes:
    """Encodes an attribute of one byte."""
    return attribute(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    """Encodes an attribute of two bytes."""
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    """Encodes an attribute of four bytes."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Encodes a string with the zero byte that ends it."""
    return attribute(kind, value.encode() + b"\0")


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Decodes attributes from `offset` to the end; a truncated one ends the list."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def parse_text(payload: bytes) -> str:
    """Decodes a string attribute; bytes that are not UTF-8 become visible escapes."""
    return payload.split(b"\0", 1)[0].decode(errors="backslashreplace")


def parse_messages(data: bytes) -> Iterator[Message]:
    """Splits what one read from the socket gave; a truncated message ends it."""
    offset = 0
    while offset + HEADER_BYTES <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < HEADER_BYTES or offset + length > len(data):
            return
        body = data[offset + HEADER_BYTES : offset + length]
        yield Message(type=kind, flags=flags, sequence=sequence, body=body)
        offset += (length + 3) & ~3


def parse_verdict(message: Message) -> Verdict:
    """Decodes NLMSG_ERROR and NLMSG_DONE, with the text of an extended acknowledgement."""
    body = message.body
    if len(body) < _ERROR.size:
        return Verdict(errno=0, text="")
    (code,) = _ERROR.unpack_from(body)
    said = ""
    if message.type == NLMSG_ERROR and message.flags & _NLM_F_ACK_TLVS:
        # after the code comes our request, or only its header when the kernel cut it short
        (original,) = struct.unpack_from("=I", body, 4)
        offset = 4 + (HEADER_BYTES if message.flags & _NLM_F_CAPPED else (original + 3) & ~3)
        said = parse_text(parse_attributes(body, offset).get(_NLMSGERR_ATTR_MSG, b""))
    return Verdict(errno=-code, text=said)
