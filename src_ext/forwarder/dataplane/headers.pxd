"""Packet headers: the numbers in them, and what those say."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from forwarder.dataplane.checksum cimport inet_fold, inet_sum

cdef enum:
    ETHERNET_HEADER = 14
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_VLAN = 0x8100         # IEEE 802.1Q
    ETHERTYPE_VLAN_SERVICE = 0x88A8     # IEEE 802.1ad
    ETHERTYPE_VLAN_OLD = 0x9100     # stacked tags before 802.1ad
    PROTOCOL_TCP = 6
    PROTOCOL_UDP = 17
    PROTOCOL_SCTP = 132
    TCP_FIN = 0x01
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_ECE = 0x40
    TCP_CWR = 0x80
    UDP_CHECKSUM = 6                # where a header has its checksum
    TCP_CHECKSUM = 16
    SCTP_CHECKSUM = 8


cdef inline uint32_t be16(const uint8_t *at) noexcept nogil:
    return (<uint32_t>at[0] << 8) | at[1]


cdef inline uint32_t be32(const uint8_t *at) noexcept nogil:
    return (be16(at) << 16) | be16(at + 2)


cdef inline void put_be16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value


# A 16-bit number as it adds to a sum in the machine's byte order.
cdef inline uint64_t word(uint32_t value) noexcept nogil:
    cdef uint8_t wire[2]
    put_be16(wire, value)
    return inet_sum(wire, 2, 0)


# The sum of a pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1) without its length.
cdef inline uint64_t pseudo_sum(const uint8_t *ip, bint ipv6, uint32_t protocol) noexcept nogil:
    if ipv6:
        return inet_sum(ip + 8, 32, word(protocol))
    return inet_sum(ip + 12, 8, word(protocol))


# What a sender leaves in the checksum's field for others to finish.
cdef inline void put_sum(uint8_t *at, uint64_t total) noexcept nogil:
    cdef uint16_t folded = inet_fold(total)
    memcpy(at, &folded, 2)


cdef inline void put_checksum(uint8_t *at, uint64_t total, bint zero_means_none) noexcept nogil:
    cdef uint16_t check = <uint16_t>~inet_fold(total)
    if check == 0 and zero_means_none:
        check = 0xFFFF
    memcpy(at, &check, 2)


# Whether the field at `at` holds the checksum of words that add up to `total` without it,
# written as `put_checksum` would.
cdef inline bint is_checksum(const uint8_t *at, uint64_t total) noexcept nogil:
    cdef uint8_t check[2]
    put_checksum(check, total, False)
    return check[0] == at[0] and check[1] == at[1]
