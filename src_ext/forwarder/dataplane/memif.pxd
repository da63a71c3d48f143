"""Port over memif rings and the regions they point into, in both roles.

The rings' names say who sends: to the server, to the client. A session is the shared
memory of one connection; a port outlives its sessions.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from forwarder.dataplane.frame cimport BURST_FRAMES
from forwarder.dataplane.memif_abi cimport memif_ring_t
from forwarder.dataplane.port cimport Port, port_t

cdef enum:
    MEMIF_REGIONS = 16          # most regions of one session
    MEMIF_PATIENCE = 64         # bad frames before the peer is given up

# port_t.fault
cdef enum memif_fault_t:
    FAULT_NONE
    FAULT_TRUNCATED             # SIGBUS: the peer made its memory smaller
    FAULT_INDEX                 # the peer's index jumped by more than the ring has
    FAULT_BUFFER                # a buffer that the peer lends lies outside its memory, or has no length
    FAULT_FRAMES                # MEMIF_PATIENCE bad frames

cdef struct memif_region_t:
    uint8_t *base
    uint64_t size

cdef struct memif_session_t:
    # Constant.
    memif_ring_t *rx_ring
    memif_ring_t *tx_ring
    uint16_t rx_mask            # slots - 1
    uint16_t tx_mask
    uint32_t frame_bytes_max
    int rx_fd                   # eventfds; borrowed from MemifSession's owner
    int tx_fd
    # Constant; of a client, who owns the memory: slot i's buffer is at base + i * buffer_bytes of
    # region 0. What stands in shared memory about our own buffers is never read back.
    uint32_t buffer_bytes
    uint32_t rx_buffers         # offset of slot 0's buffer
    uint32_t tx_buffers
    # The runner's, slow path.
    uint16_t tx_frame_slots     # how many slots are kept for a frame that has not been seen yet
    uint32_t n_regions
    memif_region_t regions[MEMIF_REGIONS]
    # The runner's. Indices run through 16 bits.
    uint16_t rx_next            # first slot that is not given back
    uint16_t rx_end             # behind the last slot that the peer has filled, as last seen
    uint16_t rx_posted          # client: behind the last slot that was lent to the peer
    uint16_t tx_next            # first slot to fill
    uint16_t tx_end             # behind the last slot that may be filled, as last seen
    bint rx_chained             # a frame of the burst in hand has more than one slot
    uint32_t bad_frames
    uint16_t rx_after[BURST_FRAMES]     # behind each frame of the burst in hand
    # Set by the SIGBUS handler, from whichever thread touched the memory.
    uint32_t dead

cdef struct memif_port_t:
    port_t port
    void *session               # memif_session_t; exchanged by control
    memif_session_t *in_hand    # the runner's: the session of the burst in hand


cdef class MemifSession:
    """Maps the memory of one connection."""

    cdef memif_session_t *c     # owned
    cdef int64_t watches[MEMIF_REGIONS]
    cdef size_t mapped[MEMIF_REGIONS]
    cdef readonly bint server
    cdef readonly object port   # the MemifPort it is attached to, or None

    cdef int map(self, int fd, uint64_t size) except -1
    cdef memif_ring_t *find_ring(self, uint32_t region, uint64_t offset, uint32_t log2_size) except NULL


cdef class MemifPort(Port):
    cdef memif_port_t *memif    # owned
    cdef readonly str name
    cdef readonly bint server
    cdef readonly MemifSession session

    cdef object changed(self)
