"""Owning a receive ring: its socket and its mapping."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from forwarder.dataplane.linux cimport (
    MAP_FAILED,
    MAP_SHARED,
    PACKET_RX_RING,
    PROT_READ,
    PROT_WRITE,
    SOL_PACKET,
    mmap,
    munmap,
    setsockopt,
    tpacket2_hdr,
    tpacket_req,
)

import os


cdef class PacketRing:
    """The receive ring of a packet socket, which it owns from then on.

    `socket` has its options set (TPACKET_V2, PACKET_VNET_HDR, PACKET_RESERVE) and is not
    bound yet. There are `n_blocks` blocks of `block_bytes`, a multiple of the page size,
    with as many slots of `slot_bytes`, a multiple of 16, in each as fit. Raises OSError.
    """

    def __cinit__(self, socket not None, *, uint32_t block_bytes, uint32_t n_blocks, uint32_t slot_bytes):
        cdef tpacket_req request
        cdef uint32_t per_block = block_bytes // slot_bytes
        cdef uint32_t i
        cdef void *memory
        self.socket = socket
        self.ring.fd = socket.fileno()
        self.ring.n_slots = per_block * n_blocks
        self.ring.slots = <uint8_t **>calloc(self.ring.n_slots, sizeof(uint8_t *))
        if self.ring.slots == NULL:
            raise MemoryError
        request.tp_block_size = block_bytes
        request.tp_block_nr = n_blocks
        request.tp_frame_size = slot_bytes
        request.tp_frame_nr = self.ring.n_slots
        if setsockopt(self.ring.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) < 0:
            raise OSError(errno, os.strerror(errno))
        self.size = <size_t>block_bytes * n_blocks
        memory = mmap(NULL, self.size, PROT_READ | PROT_WRITE, MAP_SHARED, self.ring.fd, 0)
        if memory == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.memory = <uint8_t *>memory
        for i in range(self.ring.n_slots):
            self.ring.slots[i] = self.memory + <size_t>(i // per_block) * block_bytes + (i % per_block) * slot_bytes

    @property
    def empty(self):
        """Whether no slot holds a frame for us."""
        cdef uint32_t i
        for i in range(self.ring.n_slots):
            if ring_ours(<tpacket2_hdr *>self.ring.slots[i]):
                return False
        return True

    def close(self):
        """Unmaps the ring and closes its socket. No worker may use it any more. Safe to call twice."""
        if self.memory != NULL:
            munmap(self.memory, self.size)
            self.memory = NULL
        self.socket.close()

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.size)
        free(self.ring.slots)
