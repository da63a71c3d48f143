"""From frames as a kernel hands them over, unfinished, to frames as they stand on a wire.

Local TCP gives its link frames of up to 64 KiB whose checksum holds only the sum of
the pseudo-header, with a virtio_net_hdr that says how to finish them. Ports that are
not kernel links finish them here, straight into their own slots, in one pass.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from forwarder.dataplane.frame cimport frame_t

cdef enum:
    GSO_HEADER_MAX = 256        # longest Ethernet to TCP header that is segmented
    GSO_SEGMENTS_MAX = 8192     # 64 KiB in pieces of 8 bytes, the least Linux makes (TCP_MIN_GSO_SIZE)

cdef enum finish_t:
    FINISH_COPY                 # a complete frame
    FINISH_CHECKSUM             # one Internet checksum from csum_start to the end
    FINISH_CRC32C               # one SCTP checksum
    FINISH_TCP                  # segments, each with its own headers
    FINISH_UDP

# How to finish one frame; filled in by gso_parse, constant afterwards.
cdef struct gso_t:
    finish_t finish
    uint32_t n_segments         # frames that come of it, at least 1
    uint32_t header_length      # bytes before the payload in each of them; 0 unless FINISH_TCP, FINISH_UDP
    uint32_t payload_length     # bytes of payload in all of them
    uint32_t payload_size       # bytes of payload in each of them but the last
    uint16_t csum_start
    uint16_t csum_offset
    uint16_t ip_offset          # of the IP header
    uint16_t l4_offset          # of the TCP or UDP header
    bint ipv6
    bint no_checksum            # UDP over IPv4 that was sent without
    uint64_t pseudo             # sum of the pseudo-header without the length
    uint8_t header[GSO_HEADER_MAX]  # private copy: the frame's owner cannot change it any more

# Reads what frame->offload asks for. `ip_mode`: the frame starts at the IP header.
# Returns 0, or a negative number: -1 - drop_reason (DROP_BAD_OFFLOAD: the offload
# contradicts the frame; DROP_GSO_UNSUPPORTED: headers that cannot be segmented soundly).
cdef int gso_parse(const frame_t *frame, bint ip_mode, gso_t *gso) noexcept nogil

# Bytes of the i-th frame to write, i < n_segments.
cdef inline uint32_t gso_segment_length(const gso_t *gso, uint32_t i) noexcept nogil:
    if i + 1 < gso.n_segments:
        return gso.header_length + gso.payload_size
    return gso.header_length + gso.payload_length - (gso.n_segments - 1) * gso.payload_size

# Writes the whole i-th frame, complete on the wire, to `to`: gso_segment_length bytes.
# `frame` is the one gso_parse saw. Never reads `to`.
cdef void gso_write(const frame_t *frame, const gso_t *gso, uint32_t i, uint8_t *to) noexcept nogil
