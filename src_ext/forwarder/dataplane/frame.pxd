"""Frames as ports lend them, a burst at a time."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    BURST_FRAMES = 128      # most frames in one burst
    POOL_FRAMES = 64        # those of them that a socket receives at once: more would not stay in the cache
    BURST_SEGMENTS = 1024   # most further segments of all its frames together
    FRAME_SEGMENTS = 64     # most segments of one frame
    FRAME_BYTES_MAX = 65550     # longest frame: a 64 KiB packet behind an Ethernet header

# virtio_net_hdr.flags and .gso_type, linux/virtio_net.h
cdef enum:
    OFFLOAD_NEEDS_CSUM = 1
    OFFLOAD_DATA_VALID = 2
    GSO_NONE = 0
    GSO_TCPV4 = 1
    GSO_UDP = 3
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    GSO_ECN = 0x80

cdef struct segment_t:
    const uint8_t *data
    uint32_t length

# What virtio_net_hdr says of a frame. `flags` and `gso_type` zero: a complete wire
# frame. The header length and the size count only with a `gso_type`, the checksum's
# place only with OFFLOAD_NEEDS_CSUM.
# Offsets count from the first byte of the frame as lent (Ethernet header in
# Ethernet mode, IP header in IP mode).
cdef struct offload_t:
    uint8_t flags
    uint8_t gso_type
    uint16_t header_length
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset

# One frame, lent by a port's rx_burst from the sender's own slots and valid
# until that port's rx_release. The memory may belong to another process, which
# may change it at any time: read each byte once.
cdef struct frame_t:
    const uint8_t *data         # first segment
    uint32_t segment_length     # bytes in the first segment
    uint32_t length             # bytes in all segments
    const segment_t *more       # the further segments; unused when n_more is 0
    uint16_t n_more
    offload_t offload

# Scratch of one worker. `pool` is memory into which a port that has no slots of
# its own (a socket without a ring) receives; it belongs to the worker and holds
# POOL_FRAMES slots of POOL_SLOT_BYTES each, and a spare one behind them for whoever sends.
cdef enum:
    POOL_SLOT_BYTES = 66048     # FRAME_BYTES_MAX, headroom for a VLAN tag and headers, a multiple of 512
    POOL_BYTES = 65 * 66048     # (POOL_FRAMES + 1) * POOL_SLOT_BYTES

cdef struct burst_t:
    uint64_t now                # the clock as last read, in nanoseconds
    bint timed                  # the clock is read after each burst of this turn
    uint32_t most               # how many frames a source may take that cannot hold them (PORT_QUEUES)
    bint waiting                # set by such a source: `most` is 0, and there are frames
    uint32_t n_frames
    uint32_t n_segments
    uint8_t *pool
    frame_t frames[BURST_FRAMES]
    segment_t segments[BURST_SEGMENTS]

# Where a sender puts one frame together that does not go out as it was lent.
cdef inline uint8_t *burst_spare(burst_t *burst) noexcept nogil:
    return burst.pool + POOL_FRAMES * POOL_SLOT_BYTES
