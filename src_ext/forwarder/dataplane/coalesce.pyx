"""Coalescing: consecutive TCP segments of one burst become the super-frame they could be cut from.

Nothing is lost by it: cutting that super-frame (`offload.pyx`, or any kernel) gives the same frames
again, byte by byte. Hence the rules are strict. Frames stand behind each other in the burst and in
the stream, all but the last are equally long, identification numbers count up as a segmenting kernel
counts them, every checksum is right, and whatever else the headers hold is the same. FIN and PSH end
a super-frame; CWR, URG, SYN and RST, IPv4 options, IPv6 extension headers and fragments are in none.

Payload stays where it lies. It is read twice, for its checksum and when it is sent; whoever changes it
in between could as well have sent it so from the beginning.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from forwarder.dataplane.checksum cimport inet_sum
from forwarder.dataplane.frame cimport (
    BURST_FRAMES,
    GSO_TCPV4,
    GSO_TCPV6,
    OFFLOAD_NEEDS_CSUM,
    frame_t,
    segment_t,
)
from forwarder.dataplane.headers cimport (
    ETHERNET_HEADER,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    PROTOCOL_TCP,
    TCP_ACK,
    TCP_CHECKSUM,
    TCP_ECE,
    TCP_FIN,
    TCP_PSH,
    be16,
    be32,
    is_checksum,
    pseudo_sum,
    put_be16,
    put_checksum,
    put_sum,
    word,
)

from forwarder.dataplane.spec import Offload

cdef enum:
    # Linux segments nothing that is as long as a link's gso_max_size, 64 KiB, Ethernet header included.
    WHOLE_BYTES_MAX = 65535
    PAYLOAD_MIN = 8             # the least that Linux takes as the size of a segment (TCP_MIN_GSO_SIZE)

# One frame's headers; a private copy, for the frame's owner may change them at any time.
cdef struct tcp_t:
    uint32_t ip_offset
    uint32_t l4_offset
    uint32_t header_length
    uint32_t payload_length
    bint ipv6
    uint8_t header[COALESCED_HEADER_MAX]


cdef bint read_headers(const frame_t *frame, bint ip_mode, tcp_t *tcp) noexcept nogil:
    """Reads the headers of a complete frame in one piece; whether it could be part of a super-frame."""
    cdef const uint8_t *ip
    cdef const uint8_t *l4
    cdef uint32_t have = min(frame.length, <uint32_t>COALESCED_HEADER_MAX)
    cdef uint32_t at = 0
    cdef uint32_t ethertype
    if frame.n_more or frame.offload.flags or frame.offload.gso_type:
        return False
    memcpy(tcp.header, frame.data, have)
    if ip_mode:
        ethertype = ETHERTYPE_IPV6 if tcp.header[0] >> 4 == 6 else ETHERTYPE_IPV4
    else:
        at = ETHERNET_HEADER
        if have < at:
            return False
        ethertype = be16(&tcp.header[at - 2])
        if ethertype == ETHERTYPE_VLAN and have >= at + 4:
            at += 4
            ethertype = be16(&tcp.header[at - 2])
    tcp.ip_offset = at
    ip = &tcp.header[at]
    if ethertype == ETHERTYPE_IPV4:
        tcp.ipv6 = False
        at += 20
        if (
            have < at + 20
            or ip[0] != 0x45            # no options
            or ip[9] != PROTOCOL_TCP
            or be16(ip + 2) != frame.length - tcp.ip_offset
            or be16(ip + 6) & 0x3FFF    # no fragment
            or not is_checksum(ip + 10, inet_sum(ip + 12, 8, inet_sum(ip, 10, 0)))
        ):
            return False
    elif ethertype == ETHERTYPE_IPV6:
        tcp.ipv6 = True
        at += 40
        if have < at + 20 or ip[0] >> 4 != 6 or ip[6] != PROTOCOL_TCP or be16(ip + 4) != frame.length - at:
            return False
    else:
        return False
    tcp.l4_offset = at
    l4 = &tcp.header[at]
    at += (<uint32_t>l4[12] >> 4) * 4
    if at < tcp.l4_offset + 20 or at >= frame.length or at > have:
        return False
    tcp.header_length = at
    tcp.payload_length = frame.length - at
    return l4[13] & <uint8_t>~(TCP_FIN | TCP_PSH | TCP_ECE) == TCP_ACK


cdef inline bint ends(const tcp_t *tcp) noexcept nogil:
    """Whether nothing may come behind this segment."""
    return tcp.header[tcp.l4_offset + 13] & (TCP_FIN | TCP_PSH) != 0


cdef bint continues(const tcp_t *first, const tcp_t *next_one, uint32_t i) noexcept nogil:
    """Whether cutting a super-frame that begins with `first` gives the headers of `next_one` as its i-th."""
    cdef const uint8_t *a = &first.header[first.ip_offset]
    cdef const uint8_t *b = &next_one.header[first.ip_offset]
    if (
        next_one.header_length != first.header_length
        or next_one.ip_offset != first.ip_offset
        or next_one.ipv6 != first.ipv6
        or next_one.payload_length > first.payload_length
        or memcmp(first.header, next_one.header, first.ip_offset) != 0
    ):
        return False
    if first.ipv6:
        if memcmp(a, b, 4) != 0 or memcmp(a + 6, b + 6, 34) != 0:
            return False
    elif (
        memcmp(a, b, 2) != 0
        or (be16(a + 4) + i) & 0xFFFF != be16(b + 4)
        or memcmp(a + 6, b + 6, 4) != 0
        or memcmp(a + 12, b + 12, 8) != 0
    ):
        return False
    a = &first.header[first.l4_offset]
    b = &next_one.header[first.l4_offset]
    return (
        memcmp(a, b, 4) == 0
        and be32(a + 4) + i * first.payload_length == be32(b + 4)
        and memcmp(a + 8, b + 8, 5) == 0
        and (a[13] ^ b[13]) & <uint8_t>~(TCP_FIN | TCP_PSH) == 0
        and memcmp(a + 14, b + 14, 2) == 0
        and memcmp(a + 18, b + 18, first.header_length - first.l4_offset - 18) == 0
    )


cdef bint verifies(const frame_t *frame, const tcp_t *tcp) noexcept nogil:
    """Whether the TCP checksum is right: the super-frame will have a new one."""
    cdef const uint8_t *l4 = &tcp.header[tcp.l4_offset]
    cdef uint64_t total = pseudo_sum(&tcp.header[tcp.ip_offset], tcp.ipv6, PROTOCOL_TCP)
    total += word(frame.length - tcp.l4_offset)
    total = inet_sum(l4, TCP_CHECKSUM, total)
    total = inet_sum(l4 + 18, tcp.header_length - tcp.l4_offset - 18, total)
    return is_checksum(l4 + TCP_CHECKSUM, inet_sum(frame.data + tcp.header_length, tcp.payload_length, total))


cdef void finish(tcp_t *tcp, uint32_t payload_length, uint8_t last_flags) noexcept nogil:
    """Turns the first segment's headers into the super-frame's, its checksum half done."""
    cdef uint8_t *ip = &tcp.header[tcp.ip_offset]
    cdef uint8_t *l4 = &tcp.header[tcp.l4_offset]
    cdef uint32_t l4_length = tcp.header_length - tcp.l4_offset + payload_length
    if tcp.ipv6:
        put_be16(ip + 4, l4_length)
    else:
        put_be16(ip + 2, l4_length + 20)
        put_be16(ip + 10, 0)
        put_checksum(ip + 10, inet_sum(ip, 20, 0), False)
    l4[13] |= last_flags & (TCP_FIN | TCP_PSH)
    put_sum(l4 + TCP_CHECKSUM, pseudo_sum(ip, tcp.ipv6, PROTOCOL_TCP) + word(l4_length))


cdef uint32_t coalesce(
    const frame_t *frames, uint32_t n, bint ip_mode, uint8_t *header, segment_t *pieces, frame_t *whole
) noexcept nogil:
    cdef tcp_t first
    cdef tcp_t next_one
    cdef uint32_t count = 1
    cdef uint32_t payload
    cdef uint8_t last_flags = 0
    cdef uint32_t most = WHOLE_BYTES_MAX
    if n < 2 or not read_headers(&frames[0], ip_mode, &first) or ends(&first) or first.payload_length < PAYLOAD_MIN:
        return 1
    if ip_mode:
        most -= ETHERNET_HEADER
    payload = first.payload_length
    while count < n:
        if (
            not read_headers(&frames[count], ip_mode, &next_one)
            or not continues(&first, &next_one, count)
            or first.header_length + payload + next_one.payload_length > most
            or (count == 1 and not verifies(&frames[0], &first))
            or not verifies(&frames[count], &next_one)
        ):
            break
        last_flags = next_one.header[next_one.l4_offset + 13]
        pieces[count].data = frames[count].data + first.header_length
        pieces[count].length = next_one.payload_length
        payload += next_one.payload_length
        count += 1
        if next_one.payload_length < first.payload_length or ends(&next_one):
            break
    if count == 1:
        return 1
    pieces[0].data = frames[0].data + first.header_length
    pieces[0].length = first.payload_length
    finish(&first, payload, last_flags)
    memcpy(header, first.header, first.header_length)
    memset(whole, 0, sizeof(frame_t))
    whole.data = header
    whole.segment_length = first.header_length
    whole.length = first.header_length + payload
    whole.more = pieces
    whole.n_more = <uint16_t>count
    whole.offload.flags = OFFLOAD_NEEDS_CSUM
    whole.offload.gso_type = <uint8_t>(GSO_TCPV6 if first.ipv6 else GSO_TCPV4)
    whole.offload.header_length = <uint16_t>first.header_length
    whole.offload.gso_size = <uint16_t>first.payload_length
    whole.offload.csum_start = <uint16_t>first.l4_offset
    whole.offload.csum_offset = TCP_CHECKSUM
    return count


def coalesced(frames, *, bint ip_mode=False):
    """Coalesces complete frames as a kernel port does with one burst, for tests and tools.

    Returns what is to be sent: for each frame its bytes, its Offload, and how many of `frames` it
    stands for.
    """
    cdef frame_t lent[BURST_FRAMES]
    cdef segment_t pieces[BURST_FRAMES]
    cdef uint8_t header[COALESCED_HEADER_MAX]
    cdef frame_t whole
    cdef uint32_t n = <uint32_t>len(frames)
    cdef uint32_t at = 0
    cdef uint32_t i, count
    cdef list out = []
    if n > BURST_FRAMES:
        raise ValueError(f"{n} frames are more than a burst of {<int>BURST_FRAMES}")
    memset(lent, 0, sizeof(lent))
    try:
        # One allocation each, of exactly its size: sanitizers then see any step outside.
        for i in range(n):
            data = bytes(frames[i])
            lent[i].data = <uint8_t *>malloc(max(len(data), 1))
            if lent[i].data == NULL:
                raise MemoryError
            memcpy(<void *>lent[i].data, <const char *>data, len(data))
            lent[i].segment_length = lent[i].length = <uint32_t>len(data)
        while at < n:
            count = coalesce(&lent[at], n - at, ip_mode, header, pieces, &whole)
            if count == 1:
                out.append((bytes(frames[at]), Offload(), 1))
            else:
                joined = [(<const char *>whole.data)[:whole.segment_length]]
                joined += [(<const char *>pieces[i].data)[:pieces[i].length] for i in range(count)]
                out.append((
                    b"".join(joined),
                    Offload(
                        flags=whole.offload.flags,
                        gso_type=whole.offload.gso_type,
                        header_length=whole.offload.header_length,
                        gso_size=whole.offload.gso_size,
                        csum_start=whole.offload.csum_start,
                        csum_offset=whole.offload.csum_offset,
                    ),
                    count,
                ))
            at += count
        return out
    finally:
        for i in range(n):
            free(<void *>lent[i].data)
