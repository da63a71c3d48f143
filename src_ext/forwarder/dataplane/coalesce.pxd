"""From TCP segments as they stand on a wire to the super-frame that they could be cut from.

The way back from offload.pxd: a kernel's cost is per frame, whatever its length.
"""

from libc.stdint cimport uint8_t, uint32_t

from forwarder.dataplane.frame cimport frame_t, segment_t

cdef enum:
    COALESCED_HEADER_MAX = 128      # longest Ethernet to TCP header that is coalesced

# Finds out how many frames at the head of `frames`, of which there are n > 0, can go as one.
# If more than one, fills in `whole`: its headers in `header` (COALESCED_HEADER_MAX bytes), its
# payload where it lies, one of `pieces` (n) per frame. Else returns 1: that frame goes as it is.
# `ip_mode`: frames start at the IP header.
cdef uint32_t coalesce(
    const frame_t *frames, uint32_t n, bint ip_mode, uint8_t *header, segment_t *pieces, frame_t *whole
) noexcept nogil
