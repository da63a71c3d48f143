"""A packet socket's receive ring, mapped: frames lie in slots that both sides see.

A slot belongs to the kernel or to us, as its status says; see packet_mmap in the
kernel's documentation (TPACKET_V2).
"""

from libc.stdint cimport uint8_t, uint32_t

from forwarder.dataplane.atomics cimport load_acquire32, store_release32
from forwarder.dataplane.linux cimport TP_STATUS_KERNEL, TP_STATUS_USER, tpacket2_hdr

# Which of a port's two sources, the socket's queue and the ring, the kernel fills.
cdef enum ring_phase_t:
    RING_ENTERING       # was the queue, becomes the ring
    RING_STEADY         # the ring
    RING_LEAVING        # the queue; what is left in the ring goes first

cdef struct packet_ring_t:
    # Constant once mapped.
    int fd                      # borrowed from PacketRing.socket
    uint32_t n_slots
    uint8_t **slots             # where each slot starts
    # Written by control, read by the worker.
    uint32_t phase              # ring_phase_t
    # Written by the worker.
    uint32_t next               # slot of the oldest frame that was not given back

cdef inline tpacket2_hdr *ring_slot(packet_ring_t *ring, uint32_t i) noexcept nogil:
    """The i-th slot from the oldest frame on, i < n_slots."""
    i += ring.next
    if i >= ring.n_slots:
        i -= ring.n_slots
    return <tpacket2_hdr *>ring.slots[i]

cdef inline bint ring_ours(const tpacket2_hdr *slot) noexcept nogil:
    """Whether the kernel has put a frame there."""
    return load_acquire32(&slot.tp_status) & TP_STATUS_USER

cdef inline void ring_give_back(packet_ring_t *ring, uint32_t n) noexcept nogil:
    """Gives the oldest n slots to the kernel."""
    cdef uint32_t i
    for i in range(n):
        store_release32(&ring_slot(ring, i).tp_status, TP_STATUS_KERNEL)
    ring.next += n
    if ring.next >= ring.n_slots:
        ring.next -= ring.n_slots


cdef class PacketRing:
    cdef packet_ring_t ring
    cdef uint8_t *memory
    cdef size_t size
    cdef readonly object socket     # owned
