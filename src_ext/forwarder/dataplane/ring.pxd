"""Index arithmetic of a single-producer single-consumer ring.

Indices run freely through 16 bits; the slot is index & (size - 1). Sizes are powers of
two below 2^16, so a full ring and an empty one never look alike.
"""

from libc.stdint cimport uint16_t


cdef inline uint16_t ring_count(uint16_t ahead, uint16_t behind) noexcept nogil:
    """Gives how many slots lie between two indices. More than the ring's size: one of them is wrong."""
    return <uint16_t>(ahead - behind)


cdef inline uint16_t ring_slot(uint16_t index, uint16_t mask) noexcept nogil:
    return index & mask
