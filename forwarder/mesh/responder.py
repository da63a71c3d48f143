"""Answers ARP, ICMP echo and IPv6 neighbour discovery: bytes in, bytes out.

```
ETHERNET   | Ethernet | ARP who-has ours            ->  ARP is-at
           | Ethernet | IPv6 | neighbour solicitation ->  advertisement
           | Ethernet | IPv4 or IPv6 | echo request   ->  echo reply
IP                    | IPv4 or IPv6 | echo request   ->  echo reply
```

Everything else, everything damaged, and everything for somebody else gets no answer. Frames
come from a peer that nobody vouches for: each length is checked before it is used.

Sources: RFC 826 (ARP), RFC 792 and 1122 3.2.2 (ICMP), RFC 4443 (ICMPv6), RFC 4861 (neighbour
discovery), RFC 1071 (checksum).
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface

ETHERNET_HEADER = 14
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
IPV4_HEADER = 20
IPV6_HEADER = 40
PROTOCOL_ICMP = 1
PROTOCOL_ICMPV6 = 58
ICMP_ECHO_REPLY = 0
ICMP_ECHO_REQUEST = 8
ICMPV6_ECHO_REQUEST = 128
ICMPV6_ECHO_REPLY = 129
ICMPV6_NEIGHBOUR_SOLICITATION = 135
ICMPV6_NEIGHBOUR_ADVERTISEMENT = 136
ARP_REQUEST = 1
ARP_REPLY = 2
HOP_LIMIT = 64
BROADCAST = b"\xff" * 6

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_ETHERNET_IPV4 = (1, ETHERTYPE_IPV4, 6, 4)
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_ECHO_HEADER = 8
_FRAGMENT_MASK = 0x3FFF
"""More-fragments flag and offset."""


def mac_of(name: str) -> bytes:
    """Returns a locally administered unicast address that is always the same for `name`."""
    digest = hashlib.sha256(name.encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]


def checksum(data: bytes | memoryview) -> int:
    """Returns the Internet checksum of `data` (RFC 1071)."""
    if len(data) % 2:
        data = bytes(data) + b"\x00"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True, slots=True)
class Host:
    """Who we are on one vWire."""

    mac: bytes
    """Six bytes; unused in IP mode."""
    addresses: frozenset[bytes]
    """IPv4 (4 bytes) and IPv6 (16 bytes) addresses."""

    @classmethod
    def of(cls, mac: bytes, addresses: Iterable[str]) -> "Host":
        """Makes a host from addresses written as text, with or without a prefix length."""
        return cls(mac, frozenset(ip_interface(text).ip.packed for text in addresses))

    def answer_frame(self, frame: bytes) -> bytes | None:
        """Returns the answer to an Ethernet frame, or None."""
        if len(frame) < ETHERNET_HEADER:
            return None
        to, sender, ethertype = frame[:6], frame[6:12], int.from_bytes(frame[12:14], "big")
        # A sender that is a group address is nobody we could answer.
        if sender[0] & 1 or not (to == self.mac or to[0] & 1):
            return None
        payload = frame[ETHERNET_HEADER:]
        answer = None
        if ethertype == ETHERTYPE_ARP:
            answer = self._answer_arp(payload)
        elif ethertype == ETHERTYPE_IPV6:
            answer = self._answer_solicitation(payload)
        if answer is None and to == self.mac and ethertype == _ethertype(payload):
            answer = self.answer_packet(payload)
        if answer is None:
            return None
        return sender + self.mac + frame[12:14] + answer

    def answer_packet(self, packet: bytes) -> bytes | None:
        """Returns the answer to an IP packet, or None."""
        version = packet[0] >> 4 if packet else 0
        if version == 4:
            return self._answer_ipv4(packet)
        if version == 6:
            return self._answer_ipv6(packet)
        return None

    def _answer_arp(self, payload: bytes) -> bytes | None:
        if len(payload) < _ARP.size:
            return None
        *kind, operation, sender_mac, sender_ip, _, target_ip = _ARP.unpack_from(payload)
        if tuple(kind) != _ARP_ETHERNET_IPV4 or operation != ARP_REQUEST or target_ip not in self.addresses:
            return None
        return _ARP.pack(*_ARP_ETHERNET_IPV4, ARP_REPLY, self.mac, target_ip, sender_mac, sender_ip)

    def _answer_ipv4(self, packet: bytes) -> bytes | None:
        body = _ipv4_body(packet, PROTOCOL_ICMP)
        if body is None or packet[16:20] not in self.addresses:
            return None
        if len(body) < _ECHO_HEADER or body[0] != ICMP_ECHO_REQUEST or body[1] or checksum(body):
            return None
        return ipv4_packet(source=packet[16:20], destination=packet[12:16], body=_icmp(ICMP_ECHO_REPLY, body[4:]))

    def _answer_ipv6(self, packet: bytes) -> bytes | None:
        body = _ipv6_body(packet, PROTOCOL_ICMPV6)
        if body is None or packet[24:40] not in self.addresses or packet[8] == 0xFF:
            return None
        if len(body) < _ECHO_HEADER or body[0] != ICMPV6_ECHO_REQUEST or body[1]:
            return None
        return icmpv6_packet(source=packet[24:40], destination=packet[8:24], kind=ICMPV6_ECHO_REPLY, rest=body[4:])

    def _answer_solicitation(self, packet: bytes) -> bytes | None:
        body = _ipv6_body(packet, PROTOCOL_ICMPV6)
        if body is None or len(body) < 24 or body[0] != ICMPV6_NEIGHBOUR_SOLICITATION or body[1]:
            return None
        # RFC 4861 7.1.1: 255 proves that no router has forwarded it.
        target = body[8:24]
        if packet[7] != 255 or target not in self.addresses or target[0] == 0xFF:
            return None
        asks_for_duplicates = not any(packet[8:24])
        router_solicited_override = 0x20000000 if asks_for_duplicates else 0x60000000
        return icmpv6_packet(
            source=target,
            destination=_ALL_NODES if asks_for_duplicates else packet[8:24],
            kind=ICMPV6_NEIGHBOUR_ADVERTISEMENT,
            rest=struct.pack("!I", router_solicited_override) + target + b"\x02\x01" + self.mac,
            hop_limit=255,
        )


_ALL_NODES = IPv6Address("ff02::1").packed


def echo_request(*, source: str, destination: str, identifier: int, sequence: int, data: bytes = b"") -> bytes:
    """Returns an ICMP or ICMPv6 echo request as an IP packet; both addresses are of one family."""
    src, dst = ip_interface(source).ip, ip_interface(destination).ip
    rest = struct.pack("!HH", identifier, sequence) + data
    if isinstance(src, IPv4Address):
        return ipv4_packet(source=src.packed, destination=dst.packed, body=_icmp(ICMP_ECHO_REQUEST, rest))
    return icmpv6_packet(source=src.packed, destination=dst.packed, kind=ICMPV6_ECHO_REQUEST, rest=rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoReply:
    """An echo reply that arrived undamaged."""

    source: bytes
    identifier: int
    sequence: int
    data: bytes


def parse_echo_reply(packet: bytes) -> EchoReply | None:
    """Reads an IP packet that is an ICMP or ICMPv6 echo reply; None for all else."""
    if (body := _ipv4_body(packet, PROTOCOL_ICMP)) is not None:
        kind, source, intact = ICMP_ECHO_REPLY, packet[12:16], checksum(body) == 0
    elif (body := _ipv6_body(packet, PROTOCOL_ICMPV6)) is not None:
        kind, source, intact = ICMPV6_ECHO_REPLY, packet[8:24], True
    else:
        return None
    if len(body) < _ECHO_HEADER or body[0] != kind or body[1] or not intact:
        return None
    identifier, sequence = struct.unpack_from("!HH", body, 4)
    return EchoReply(source=source, identifier=identifier, sequence=sequence, data=body[8:])


def arp_request(*, mac: bytes, source: str, target: str) -> bytes:
    """Returns the Ethernet frame that asks who has `target`."""
    asked = _ARP.pack(
        *_ARP_ETHERNET_IPV4,
        ARP_REQUEST,
        mac,
        IPv4Address(source).packed,
        bytes(6),
        IPv4Address(target).packed,
    )
    return BROADCAST + mac + ETHERTYPE_ARP.to_bytes(2, "big") + asked


def neighbour_solicitation(*, mac: bytes, source: str, target: str) -> bytes:
    """Returns the Ethernet frame that asks for the address of the IPv6 neighbour `target`."""
    wanted = IPv6Address(target).packed
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + wanted[13:]
    packet = icmpv6_packet(
        source=IPv6Address(source).packed,
        destination=group,
        kind=ICMPV6_NEIGHBOUR_SOLICITATION,
        rest=bytes(4) + wanted + b"\x01\x01" + mac,
        hop_limit=255,
    )
    return b"\x33\x33" + group[12:] + mac + ETHERTYPE_IPV6.to_bytes(2, "big") + packet


def parse_neighbour(frame: bytes) -> tuple[bytes, bytes] | None:
    """Returns (IP address, MAC) that an ARP reply or a neighbour advertisement tells; None for all else."""
    if len(frame) < ETHERNET_HEADER:
        return None
    ethertype, payload = int.from_bytes(frame[12:14], "big"), frame[ETHERNET_HEADER:]
    if ethertype == ETHERTYPE_ARP and len(payload) >= _ARP.size:
        *kind, operation, sender_mac, sender_ip, _, _ = _ARP.unpack_from(payload)
        return (sender_ip, sender_mac) if tuple(kind) == _ARP_ETHERNET_IPV4 and operation == ARP_REPLY else None
    if ethertype == ETHERTYPE_IPV6 and (body := _ipv6_body(payload, PROTOCOL_ICMPV6)) is not None:
        is_advertisement = len(body) >= 32 and body[0] == ICMPV6_NEIGHBOUR_ADVERTISEMENT and payload[7] == 255
        if is_advertisement and body[24:26] == b"\x02\x01":
            return body[8:24], body[26:32]
    return None


def ipv4_packet(*, source: bytes, destination: bytes, body: bytes, protocol: int = PROTOCOL_ICMP) -> bytes:
    """Returns an IPv4 packet without options around `body`."""
    length = IPV4_HEADER + len(body)
    header = _IPV4.pack(0x45, 0, length, 0, 0, HOP_LIMIT, protocol, 0, source, destination)
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body


def icmpv6_packet(*, source: bytes, destination: bytes, kind: int, rest: bytes, hop_limit: int = HOP_LIMIT) -> bytes:
    """Returns an IPv6 packet with an ICMPv6 message of type `kind`, code 0; `rest` follows its checksum."""
    length = 4 + len(rest)
    pseudo = source + destination + struct.pack("!IHBB", length, 0, 0, PROTOCOL_ICMPV6)
    message = bytes([kind, 0, 0, 0]) + rest
    total = checksum(pseudo + message)
    header = _IPV6.pack(6 << 28, length, PROTOCOL_ICMPV6, hop_limit, source, destination)
    return header + message[:2] + total.to_bytes(2, "big") + rest


def _icmp(kind: int, rest: bytes) -> bytes:
    message = bytes([kind, 0, 0, 0]) + rest
    return message[:2] + checksum(message).to_bytes(2, "big") + rest


def _ethertype(packet: bytes) -> int:
    version = packet[0] >> 4 if packet else 0
    return {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}.get(version, -1)


def _ipv4_body(packet: bytes, protocol: int) -> bytes | None:
    """Returns what an undamaged, unfragmented IPv4 packet of `protocol` carries."""
    if len(packet) < IPV4_HEADER or packet[0] >> 4 != 4:
        return None
    header_length, length = (packet[0] & 0xF) * 4, int.from_bytes(packet[2:4], "big")
    if header_length < IPV4_HEADER or not header_length <= length <= len(packet):
        return None
    if int.from_bytes(packet[6:8], "big") & _FRAGMENT_MASK or packet[9] != protocol:
        return None
    return packet[header_length:length] if checksum(packet[:header_length]) == 0 else None


def _ipv6_body(packet: bytes, protocol: int) -> bytes | None:
    """Returns what an IPv6 packet carries whose first next header is `protocol`, checksum right."""
    if len(packet) < IPV6_HEADER or packet[0] >> 4 != 6 or packet[6] != protocol:
        return None
    length = int.from_bytes(packet[4:6], "big")
    if len(packet) < IPV6_HEADER + length:
        return None
    body = packet[IPV6_HEADER : IPV6_HEADER + length]
    pseudo = packet[8:40] + struct.pack("!IHBB", length, 0, 0, protocol)
    return body if checksum(pseudo + body) == 0 else None
