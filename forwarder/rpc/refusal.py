"""Saying why a connection is refused, where TLS has no words for it.

What is wrong with a SPIFFE certificate shows only when the handshake is complete. Whoever refuses
then says so as the HTTP/2 peer it would have been: GOAWAY with a reason for people to read.

Source: RFC 9113, sections 3.4, 4.1, 6.5 and 6.8.
"""

import struct
from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS: Final = 4
_GOAWAY: Final = 7
_INADEQUATE_SECURITY: Final = 12
_HEADER: Final = struct.Struct("!BHBBI")
_LAST_AND_CODE: Final = struct.Struct("!II")
_TLS_ALERT: Final = b"\x15\x03"
LONGEST: Final = 1024
"""Bytes of a reason that are told or believed."""


def tell(reason: str, *, server_side: bool) -> bytes:
    """Returns the plaintext that tells the peer of a complete handshake why there will be nothing more."""
    text = reason.encode()[:LONGEST]
    goaway = _frame(_GOAWAY, _LAST_AND_CODE.pack(0, _INADEQUATE_SECURITY) + text)
    return (b"" if server_side else PREFACE) + _frame(_SETTINGS, b"") + goaway


def told(first: bytes) -> str:
    """Returns the reason if the first plaintext of a peer is such a refusal; empty if it is not."""
    if first.startswith(_TLS_ALERT):
        return "it speaks TLS, and here is none"
    for kind, payload in _frames(first.removeprefix(PREFACE)):
        if kind == _GOAWAY and len(payload) > _LAST_AND_CODE.size:
            return payload[_LAST_AND_CODE.size :][:LONGEST].decode(errors="replace")
    return ""


def _frame(kind: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, 0, 0) + payload


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields type and payload of the frames that are whole."""
    position = 0
    while position + _HEADER.size <= len(data):
        high, low, kind, _, _ = _HEADER.unpack_from(data, position)
        position += _HEADER.size
        end = position + (high << 16 | low)
        if end > len(data):
            return
        yield kind, data[position:end]
        position = end
