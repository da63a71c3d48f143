"""Checksum completion and segmentation in software.

What must come of it: RFC 9293 (TCP), RFC 768 (UDP), RFC 791 and 8200 (IP), RFC 3168
(CWR), RFC 9260 (SCTP), and the meaning of the header: virtio 1.2, 5.1.6 (`struct
virtio_net_hdr` in linux/virtio_net.h). The header's `hdr_len` is a hint that may be
wrong, so the headers are read instead.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from forwarder.dataplane.checksum cimport crc32c_copy, inet_copy_sum, inet_odd, inet_sum
from forwarder.dataplane.counters cimport DROP_BAD_OFFLOAD, DROP_GSO_UNSUPPORTED
from forwarder.dataplane.frame cimport (
    FRAME_SEGMENTS,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    OFFLOAD_NEEDS_CSUM,
    frame_t,
    segment_t,
)
from forwarder.dataplane.headers cimport (
    ETHERNET_HEADER,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    ETHERTYPE_VLAN_OLD,
    ETHERTYPE_VLAN_SERVICE,
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SCTP_CHECKSUM,
    TCP_CHECKSUM,
    TCP_CWR,
    TCP_FIN,
    TCP_PSH,
    UDP_CHECKSUM,
    be16,
    be32,
    pseudo_sum,
    put_be16,
    put_checksum,
    word,
)

cdef enum:
    HOP_BY_HOP = 0
    ROUTING = 43
    DESTINATION_OPTIONS = 60
    SCTP_HEADER = 12


cdef uint32_t copy_crc(
    const frame_t *frame, uint32_t offset, uint32_t length, uint8_t *to, uint32_t crc
) noexcept nogil:
    """Copies frame bytes [offset, offset + length) and returns the CRC continued over them."""
    cdef const uint8_t *data = frame.data
    cdef uint32_t have = frame.segment_length
    cdef uint32_t piece
    cdef uint16_t k = 0
    while length:
        if offset < have:
            piece = have - offset
            if piece > length:
                piece = length
            crc = crc32c_copy(to, data + offset, piece, crc)
            to += piece
            length -= piece
            offset = 0
        else:
            offset -= have
        if k == frame.n_more:
            break
        data = frame.more[k].data
        have = frame.more[k].length
        k += 1
    return crc


cdef uint64_t copy_sum(const frame_t *frame, uint32_t offset, uint32_t length, uint8_t *to) noexcept nogil:
    """Copies frame bytes [offset, offset + length) and returns the sum of their 16-bit words."""
    cdef const uint8_t *data = frame.data
    cdef uint32_t have = frame.segment_length
    cdef uint32_t piece
    cdef uint64_t total = 0
    cdef bint odd = False
    cdef uint16_t k = 0
    while length:
        if offset < have:
            piece = have - offset
            if piece > length:
                piece = length
            if odd:
                total += inet_odd(inet_copy_sum(to, data + offset, piece, 0))
            else:
                total = inet_copy_sum(to, data + offset, piece, total)
            odd ^= piece & 1
            to += piece
            length -= piece
            offset = 0
        else:
            offset -= have
        if k == frame.n_more:
            break
        data = frame.more[k].data
        have = frame.more[k].length
        k += 1
    return total


cdef void copy(const frame_t *frame, uint32_t offset, uint32_t length, uint8_t *to) noexcept nogil:
    """Copies frame bytes [offset, offset + length)."""
    cdef const uint8_t *data = frame.data
    cdef uint32_t have = frame.segment_length
    cdef uint32_t piece
    cdef uint16_t k = 0
    while length:
        if offset < have:
            piece = have - offset
            if piece > length:
                piece = length
            memcpy(to, data + offset, piece)
            to += piece
            length -= piece
            offset = 0
        else:
            offset -= have
        if k == frame.n_more:
            break
        data = frame.more[k].data
        have = frame.more[k].length
        k += 1


cdef int find_transport(gso_t *gso, uint32_t have, bint ip_mode, bint *routed) noexcept nogil:
    """Finds the IP and transport headers in gso.header, of which `have` bytes are valid.

    Returns the transport protocol, or -1 if there is none to be found. `routed`: an
    IPv6 routing header still has to be followed, so the pseudo-header's destination
    is not the one in the IP header.
    """
    cdef const uint8_t *header = gso.header
    cdef uint32_t at = 0
    cdef uint32_t ethertype
    cdef uint32_t length
    cdef int protocol
    routed[0] = False
    if ip_mode:
        if have < 1:
            return -1
        ethertype = ETHERTYPE_IPV6 if header[0] >> 4 == 6 else ETHERTYPE_IPV4
    else:
        if have < ETHERNET_HEADER:
            return -1
        at = ETHERNET_HEADER
        ethertype = be16(header + 12)
        while ethertype in (ETHERTYPE_VLAN, ETHERTYPE_VLAN_SERVICE, ETHERTYPE_VLAN_OLD):
            if at + 4 > have:
                return -1
            ethertype = be16(header + at + 2)
            at += 4
    gso.ip_offset = <uint16_t>at
    if ethertype == ETHERTYPE_IPV4:
        if at + 20 > have or header[at] >> 4 != 4:
            return -1
        length = (header[at] & 15) * 4
        if length < 20 or at + length > have or be16(header + at + 6) & 0x3FFF:
            return -1               # a fragment has no transport header of its own
        gso.ipv6 = False
        gso.l4_offset = <uint16_t>(at + length)
        return header[at + 9]
    if ethertype != ETHERTYPE_IPV6 or at + 40 > have or header[at] >> 4 != 6:
        return -1
    gso.ipv6 = True
    protocol = header[at + 6]
    at += 40
    while protocol in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
        if at + 8 > have:
            return -1
        if protocol == ROUTING and header[at + 3]:
            routed[0] = True
        protocol = header[at]
        at += (<uint32_t>header[at + 1] + 1) * 8
    if at > have:
        return -1
    gso.l4_offset = <uint16_t>at
    return protocol


cdef int parse_checksum(const frame_t *frame, bint ip_mode, gso_t *gso) noexcept nogil:
    """Prepares a frame that misses one checksum and no more."""
    cdef uint32_t have
    cdef bint routed
    if gso.csum_start + <uint32_t>gso.csum_offset + 2 > frame.length:
        return -1 - <int>DROP_BAD_OFFLOAD
    gso.finish = FINISH_CHECKSUM
    if gso.csum_offset == SCTP_CHECKSUM:
        have = min(frame.length, <uint32_t>GSO_HEADER_MAX)
        copy(frame, 0, have, gso.header)
        if find_transport(gso, have, ip_mode, &routed) == PROTOCOL_SCTP and gso.l4_offset == gso.csum_start:
            if gso.csum_start + <uint32_t>SCTP_HEADER > frame.length:
                return -1 - <int>DROP_BAD_OFFLOAD
            gso.finish = FINISH_CRC32C
    return 0


cdef int parse_segments(const frame_t *frame, bint ip_mode, gso_t *gso) noexcept nogil:
    """Prepares a frame that stands for several."""
    cdef int kind = frame.offload.gso_type & ~GSO_ECN
    cdef bint partial = frame.offload.flags & OFFLOAD_NEEDS_CSUM
    cdef uint32_t have = min(frame.length, <uint32_t>GSO_HEADER_MAX)
    cdef uint32_t checksum
    cdef uint32_t length
    cdef int protocol
    cdef bint routed
    if kind not in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4):
        return -1 - <int>DROP_GSO_UNSUPPORTED
    if frame.offload.gso_size == 0:
        return -1 - <int>DROP_BAD_OFFLOAD
    copy(frame, 0, have, gso.header)
    protocol = find_transport(gso, have, ip_mode, &routed)
    if protocol != (PROTOCOL_UDP if kind == GSO_UDP_L4 else PROTOCOL_TCP) or (routed and not partial):
        return -1 - <int>DROP_GSO_UNSUPPORTED
    if (kind == GSO_TCPV4 and gso.ipv6) or (kind == GSO_TCPV6 and not gso.ipv6):
        return -1 - <int>DROP_BAD_OFFLOAD
    if protocol == PROTOCOL_TCP:
        gso.finish = FINISH_TCP
        checksum = TCP_CHECKSUM
        length = 20
        if gso.l4_offset + length <= have:
            length = (gso.header[gso.l4_offset + 12] >> 4) * 4
    else:
        gso.finish = FINISH_UDP
        checksum = UDP_CHECKSUM
        length = 8
    if length < 20 and protocol == PROTOCOL_TCP or gso.l4_offset + length > frame.length:
        return -1 - <int>DROP_BAD_OFFLOAD
    if gso.l4_offset + length > have:
        return -1 - <int>DROP_GSO_UNSUPPORTED
    if partial and (gso.csum_start != gso.l4_offset or gso.csum_offset != checksum):
        return -1 - <int>DROP_BAD_OFFLOAD
    gso.csum_start = gso.l4_offset
    gso.csum_offset = <uint16_t>checksum
    gso.header_length = gso.l4_offset + length
    gso.payload_length = frame.length - gso.header_length
    gso.payload_size = frame.offload.gso_size
    if gso.payload_length > gso.payload_size:
        gso.n_segments = (gso.payload_length + gso.payload_size - 1) / gso.payload_size
    if gso.n_segments > GSO_SEGMENTS_MAX:
        return -1 - <int>DROP_GSO_UNSUPPORTED
    if not gso.ipv6 and gso.header_length - gso.ip_offset + min(gso.payload_size, gso.payload_length) > 65535:
        return -1 - <int>DROP_BAD_OFFLOAD

    if gso.finish == FINISH_UDP and not partial and not gso.ipv6 and be16(&gso.header[gso.l4_offset + 6]) == 0:
        gso.no_checksum = True
    if routed:
        # What the sender summed, less the length, is the rest of its pseudo-header.
        gso.pseudo = inet_sum(&gso.header[gso.l4_offset + checksum], 2, 0) + (
            word(<uint16_t>~(frame.length - gso.l4_offset)))
    else:
        gso.pseudo = pseudo_sum(&gso.header[gso.ip_offset], gso.ipv6, <uint32_t>protocol)
    return 0


cdef int gso_parse(const frame_t *frame, bint ip_mode, gso_t *gso) noexcept nogil:
    gso.finish = FINISH_COPY
    gso.n_segments = 1
    gso.header_length = 0
    gso.payload_length = frame.length
    gso.payload_size = frame.length
    gso.csum_start = frame.offload.csum_start
    gso.csum_offset = frame.offload.csum_offset
    gso.no_checksum = False
    if frame.offload.gso_type & ~GSO_ECN != GSO_NONE:
        return parse_segments(frame, ip_mode, gso)
    if frame.offload.flags & OFFLOAD_NEEDS_CSUM:
        return parse_checksum(frame, ip_mode, gso)
    return 0


cdef void write_checksum(const frame_t *frame, const gso_t *gso, uint8_t *to) noexcept nogil:
    """Writes a frame with its checksum; the field holds the sum of the pseudo-header."""
    cdef uint64_t total
    copy(frame, 0, gso.csum_start, to)
    total = copy_sum(frame, gso.csum_start, frame.length - gso.csum_start, to + gso.csum_start)
    # Only UDP reads a zero as "no checksum"; for all others its two forms are equal.
    put_checksum(to + gso.csum_start + gso.csum_offset, total, gso.csum_offset == UDP_CHECKSUM)


cdef void write_crc32c(const frame_t *frame, const gso_t *gso, uint8_t *to) noexcept nogil:
    """Writes a frame with its SCTP checksum, computed over a field of zeros."""
    cdef uint8_t header[SCTP_HEADER]
    cdef uint8_t copied[SCTP_HEADER]
    cdef uint32_t start = gso.csum_start
    cdef uint32_t crc
    copy(frame, 0, start, to)
    copy(frame, start, SCTP_HEADER, header)
    memset(header + SCTP_CHECKSUM, 0, 4)
    crc = crc32c_copy(copied, header, SCTP_HEADER, 0xFFFFFFFF)
    start += SCTP_HEADER
    crc = ~copy_crc(frame, start, frame.length - start, to + start, crc)
    header[SCTP_CHECKSUM] = <uint8_t>crc
    header[SCTP_CHECKSUM + 1] = <uint8_t>(crc >> 8)
    header[SCTP_CHECKSUM + 2] = <uint8_t>(crc >> 16)
    header[SCTP_CHECKSUM + 3] = <uint8_t>(crc >> 24)
    memcpy(to + gso.csum_start, header, SCTP_HEADER)


cdef void write_segment(const frame_t *frame, const gso_t *gso, uint32_t i, uint8_t *to) noexcept nogil:
    """Writes the i-th segment. Headers are built in private memory: `to` may be shared."""
    cdef uint8_t header[GSO_HEADER_MAX]
    cdef uint8_t *ip = header + gso.ip_offset
    cdef uint8_t *l4 = header + gso.l4_offset
    cdef uint32_t length = gso_segment_length(gso, i)
    cdef uint32_t l4_length = length - gso.l4_offset
    cdef uint32_t offset = gso.header_length + i * gso.payload_size
    cdef uint32_t sequence
    cdef uint64_t total
    memcpy(header, gso.header, gso.header_length)
    if gso.ipv6:
        put_be16(ip + 4, length - gso.ip_offset - 40)
    else:
        put_be16(ip + 2, length - gso.ip_offset)
        put_be16(ip + 4, be16(ip + 4) + i)
        put_be16(ip + 10, 0)
        put_checksum(ip + 10, inet_sum(ip, gso.l4_offset - gso.ip_offset, 0), False)
    if gso.finish == FINISH_TCP:
        sequence = be32(l4 + 4) + i * gso.payload_size
        put_be16(l4 + 4, sequence >> 16)
        put_be16(l4 + 6, sequence & 0xFFFF)
        if i + 1 < gso.n_segments:
            l4[13] &= <uint8_t>~(TCP_FIN | TCP_PSH)
        if i:
            l4[13] &= <uint8_t>~TCP_CWR
    else:
        put_be16(l4 + 4, l4_length)
    if gso.no_checksum:
        copy(frame, offset, length - gso.header_length, to + gso.header_length)
    else:
        put_be16(l4 + gso.csum_offset, 0)
        total = gso.pseudo + word(l4_length)
        total = inet_sum(l4, gso.header_length - gso.l4_offset, total)
        # TCP and UDP headers have an even length, so the payload's words are aligned.
        total += copy_sum(frame, offset, length - gso.header_length, to + gso.header_length)
        put_checksum(l4 + gso.csum_offset, total, gso.finish == FINISH_UDP)
    memcpy(to, header, gso.header_length)


cdef void gso_write(const frame_t *frame, const gso_t *gso, uint32_t i, uint8_t *to) noexcept nogil:
    if gso.finish == FINISH_COPY:
        copy(frame, 0, frame.length, to)
    elif gso.finish == FINISH_CHECKSUM:
        write_checksum(frame, gso, to)
    elif gso.finish == FINISH_CRC32C:
        write_crc32c(frame, gso, to)
    else:
        write_segment(frame, gso, i, to)


def segment(frame not None, offload not None, *, bint ip_mode=False, cuts=()):
    """Finishes one frame as a port that is no kernel link does, for tests and tools.

    `frame` is bytes, `offload` an Offload. `cuts` are the offsets at which the frame
    is handed over in pieces. Returns the frames that come of it. Raises ValueError
    naming the drop reason's number if there are none.
    """
    cdef bytes whole = bytes(frame)
    cdef segment_t pieces[FRAME_SEGMENTS]
    cdef uint8_t *memory[FRAME_SEGMENTS + 1]
    cdef frame_t lent
    cdef gso_t gso
    cdef uint32_t i
    cdef int status
    cdef list bounds = [0, *sorted(cuts), len(whole)]
    cdef list out = []
    cdef uint8_t *written
    cdef uint32_t length
    cdef uint32_t n = <uint32_t>len(bounds) - 1
    if n > FRAME_SEGMENTS or bounds[n - 1] > len(whole) or bounds[1] < 0:
        raise ValueError(f"cuts {cuts} do not divide a frame of {len(whole)} bytes")
    memset(memory, 0, sizeof(memory))
    memset(&lent, 0, sizeof(lent))
    try:
        # One allocation each, of exactly its size: sanitizers then see any step outside.
        for i in range(n):
            part = whole[bounds[i]:bounds[i + 1]]
            memory[i] = <uint8_t *>malloc(max(len(part), 1))
            if memory[i] == NULL:
                raise MemoryError
            memcpy(memory[i], <const char *>part, len(part))
            if i == 0:
                lent.data = memory[0]
                lent.segment_length = <uint32_t>len(part)
            else:
                pieces[i - 1].data = memory[i]
                pieces[i - 1].length = <uint32_t>len(part)
        lent.more = pieces
        lent.n_more = <uint16_t>(n - 1)
        lent.length = <uint32_t>len(whole)
        lent.offload.flags = offload.flags
        lent.offload.gso_type = offload.gso_type
        lent.offload.header_length = offload.header_length
        lent.offload.gso_size = offload.gso_size
        lent.offload.csum_start = offload.csum_start
        lent.offload.csum_offset = offload.csum_offset
        status = gso_parse(&lent, ip_mode, &gso)
        if status < 0:
            raise ValueError(f"drop reason {-1 - status}")
        for i in range(gso.n_segments):
            length = gso_segment_length(&gso, i)
            written = <uint8_t *>malloc(max(length, 1))
            if written == NULL:
                raise MemoryError
            gso_write(&lent, &gso, i, written)
            out.append((<char *>written)[:length])
            free(written)
        return out
    finally:
        for i in range(FRAME_SEGMENTS + 1):
            free(memory[i])
