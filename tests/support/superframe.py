"""Frames as a local sender hands them to its link: unsegmented, checksums half done.

Scapy builds them, and what must become of them on a wire.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from forwarder.dataplane.spec import Offload

NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_UDP, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 3, 4, 5, 0x80
CHECKSUM_OFFSET = {TCP: 16, UDP: 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperFrame:
    """One frame with what its sender left undone, and the frames it stands for."""

    frame: bytes
    offload: Offload
    segments: list[bytes]


def partial_checksum(frame: bytes, csum_start: int, csum_offset: int) -> bytes:
    """Puts the sum of the pseudo-header where the checksum belongs, as the kernel's senders do.

    `frame` has its checksum: that is the complement of all words summed, so what the words from
    `csum_start` on miss is the pseudo-header.
    """
    at = csum_start + csum_offset
    blank = frame[:at] + b"\0\0" + frame[at + 2 :]
    whole = ~int.from_bytes(frame[at : at + 2], "big") & 0xFFFF
    pseudo = _ones_complement(whole + (~_words(blank[csum_start:]) & 0xFFFF))
    return frame[:at] + pseudo.to_bytes(2, "big") + frame[at + 2 :]


def _words(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    return _ones_complement(sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)))


def _ones_complement(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def super_frame(packet: Packet, payload: bytes, size: int, *, partial: bool = True) -> SuperFrame:
    """Builds the frame that `packet`, ending in TCP or UDP, makes with all of `payload`.

    `size` is the payload of each segment. Identification and sequence numbers, lengths, flags and
    checksums of the segments are as RFC 9293, 768, 791, 8200 and 3168 want them.
    """
    layer = TCP if TCP in packet else UDP
    whole = bytes(packet / Raw(payload))
    csum_start = len(whole) - len(payload) - len(bytes(packet[layer].__class__(bytes(packet[layer]))))
    csum_offset = CHECKSUM_OFFSET[layer]
    kind = GSO_UDP_L4 if layer is UDP else GSO_TCPV6 if IPv6 in packet else GSO_TCPV4
    if layer is TCP and "C" in packet[TCP].flags:
        kind |= GSO_ECN
    if partial:
        whole = partial_checksum(whole, csum_start, csum_offset)
    return SuperFrame(
        frame=whole,
        offload=Offload(
            flags=NEEDS_CSUM if partial else 0,
            gso_type=kind,
            gso_size=size,
            csum_start=csum_start if partial else 0,
            csum_offset=csum_offset if partial else 0,
        ),
        segments=[bytes(segment) for segment in _segments(packet, payload, size)],
    )


def _segments(packet: Packet, payload: bytes, size: int) -> Iterator[Packet]:
    pieces = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
    for i, piece in enumerate(pieces):
        one = packet.copy()
        if IP in one:
            one[IP].id = (packet[IP].id + i) & 0xFFFF
        if TCP in one:
            one[TCP].seq = (packet[TCP].seq + i * size) & 0xFFFFFFFF
            flags = str(packet[TCP].flags)
            if i + 1 < len(pieces):
                flags = flags.replace("F", "").replace("P", "")
            if i:
                flags = flags.replace("C", "")
            one[TCP].flags = flags
        yield one / Raw(piece)
