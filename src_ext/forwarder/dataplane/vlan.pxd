"""Pushing an IEEE 802.1Q tag into a frame, in place."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memmove

cdef enum:
    VLAN_TAG_BYTES = 4
    VLAN_TPID = 0x8100      # customer tag, where the kernel names no other

# Moves the addresses down by four bytes and writes the tag behind them. `frame` has
# VLAN_TAG_BYTES of headroom and at least 12 bytes. Returns where the frame starts now.
cdef inline uint8_t *vlan_push(uint8_t *frame, uint16_t tpid, uint16_t tci) noexcept nogil:
    frame -= VLAN_TAG_BYTES
    memmove(frame, frame + VLAN_TAG_BYTES, 12)
    frame[12] = <uint8_t>(tpid >> 8)
    frame[13] = <uint8_t>tpid
    frame[14] = <uint8_t>(tci >> 8)
    frame[15] = <uint8_t>tci
    return frame
