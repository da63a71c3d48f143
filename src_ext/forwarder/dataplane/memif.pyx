"""Frames from and to memif rings.

The peer can write every byte of the shared memory at any time, also while we read. So each
descriptor is copied once and checked in the copy; our own indices and our own buffers' places are
kept privately; peers' indices are compared with the ring's size. Facts of the protocol: memif.h.

Receiving lends slots as they stand and gives them back by moving one index; sending copies into
the slots of the peer, or into our own, and publishes a burst with one store.
"""

import os
import warnings

from libc.errno cimport EBUSY, EINVAL, ENOSPC, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from forwarder.dataplane.allocation cimport (
    ALLOCATED_MEMIF_MAPPING,
    ALLOCATED_MEMIF_PORT,
    ALLOCATED_MEMIF_SESSION,
    allocate,
    count_resource,
    release,
)
from forwarder.dataplane.atomics cimport (
    clear_bits32,
    exchange_ptr,
    full_fence,
    load_acquire16,
    load_acquire_ptr,
    load_relaxed16,
    load_relaxed32,
    set_bits32,
    store_relaxed16,
    store_release16,
    store_release32,
    store_release_int,
)
from forwarder.dataplane.counters cimport (
    DROP_BAD_CHAIN,
    DROP_BAD_DESCRIPTOR,
    DROP_LINK_DOWN,
    DROP_NOT_IP,
    DROP_RUNT,
    DROP_TOO_BIG,
    flow_t,
)
from forwarder.dataplane.event cimport eventfd_write
from forwarder.dataplane.frame cimport (
    BURST_FRAMES,
    BURST_SEGMENTS,
    FRAME_BYTES_MAX,
    FRAME_SEGMENTS,
    OFFLOAD_NEEDS_CSUM,
    burst_spare,
    burst_t,
    frame_t,
    segment_t,
)
from forwarder.dataplane.headers cimport ETHERNET_HEADER
from forwarder.dataplane.memif_abi cimport (
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MAP_FAILED,
    MAP_SHARED,
    MEMIF_COOKIE,
    MEMIF_DESC_NEXT,
    MEMIF_RING_MASK_INT,
    PROT_READ,
    PROT_WRITE,
    copy_all_choose,
    copy_all_fn,
    copy_t,
    fstatfs,
    madvise,
    memif_desc_clear_flags,
    memif_desc_read,
    memif_desc_read_head,
    memif_desc_t,
    memif_desc_write,
    memif_desc_write_head,
    memif_ring_t,
    mmap,
    munmap,
    prefetch_read,
    prefetch_write,
    sigbus_forget,
    sigbus_install,
    sigbus_watch,
    statfs,
)
from forwarder.dataplane.offload cimport gso_parse, gso_segment_length, gso_t, gso_write
from forwarder.dataplane.port cimport (
    PORT_CONNECTED,
    PORT_DEAD,
    PORT_EDGE,
    PORT_HOLDS,
    PORT_IP,
    PORT_UNFENCED,
    port_t,
)
from forwarder.dataplane.ring cimport ring_count, ring_slot

from forwarder.errors import DataplaneError, RemoteProtocolError

cdef enum:
    RING_HEADER = 128
    DESCRIPTOR = 16
    LINE_DESCRIPTORS = 4    # in one cache line
    SUPER_FRAME_SLOTS = 64      # what 64 KiB need in packets of 1024 bytes; more is learnt, up to half a ring

cdef copy_all_fn copy_all = copy_all_choose()

_FAULTS = {
    FAULT_TRUNCATED: "the peer truncated its memory",
    FAULT_INDEX: "the peer moved a ring index by more than the ring has",
    FAULT_BUFFER: "the peer lent a buffer outside its memory",
    FAULT_FRAMES: "the peer sent too many bad descriptors",
}


# --- Faults ---------------------------------------------------------------------------------


cdef void fail(port_t *port, memif_fault_t fault) noexcept nogil:
    """Declares the present session broken. Control is told by whoever runs the port."""
    cdef memif_session_t *session = <memif_session_t *>load_acquire_ptr(&(<memif_port_t *>port).session)
    if session != NULL and load_relaxed32(&session.dead):
        fault = FAULT_TRUNCATED     # what else looks wrong comes from the zeros put there
    store_release32(&port.fault, fault)
    set_bits32(&port.state, PORT_DEAD)


cdef inline memif_session_t *usable(memif_port_t *self) noexcept nogil:
    """Gives the session if frames can pass, else NULL."""
    cdef memif_session_t *session = <memif_session_t *>load_acquire_ptr(&self.session)
    if session == NULL or load_relaxed32(&self.port.state) & PORT_DEAD:
        return NULL
    if load_relaxed32(&session.dead):
        fail(&self.port, FAULT_TRUNCATED)
        return NULL
    return session


# --- Receiving ------------------------------------------------------------------------------


cdef inline void fetch_descriptors(
    const memif_ring_t *ring, uint16_t index, uint16_t end, uint32_t most, uint16_t mask, bint write
) noexcept nogil:
    """Asks for the lines of the next descriptors, `most` of them and none behind `end`, all at once.

    They were written last by the peer, on another CPU. Read one after the other, each line would
    wait for the one before.
    """
    cdef uint32_t n = ring_count(end, index)
    cdef uint16_t line = index & <uint16_t>~(LINE_DESCRIPTORS - 1)
    if n == 0:
        return
    if n > most:
        n = most
    n += ring_count(index, line)
    while True:
        if write:
            prefetch_write(&ring.desc[ring_slot(line, mask)])
        else:
            prefetch_read(&ring.desc[ring_slot(line, mask)])
        if n <= LINE_DESCRIPTORS:
            break
        n -= LINE_DESCRIPTORS
        line += LINE_DESCRIPTORS


cdef inline void post(memif_session_t *self, uint16_t index) noexcept nogil:
    """Client: lends one of our buffers to the server, every word of its descriptor anew."""
    cdef uint16_t slot = ring_slot(index, self.rx_mask)
    memif_desc_write(
        &self.rx_ring.desc[slot], 0, 0, self.buffer_bytes, self.rx_buffers + slot * self.buffer_bytes
    )


cdef inline void give_back(memif_session_t *self, uint16_t until, bint clear, bint server) noexcept nogil:
    """Returns all slots before `until` to the peer.

    `clear` wipes their flags: senders exist that leave NEXT behind in a slot they reuse.
    """
    cdef uint16_t n
    if server:
        if clear:
            while self.rx_next != until:
                memif_desc_clear_flags(&self.rx_ring.desc[ring_slot(self.rx_next, self.rx_mask)])
                self.rx_next += 1
        self.rx_next = until
        store_release16(&self.rx_ring.tail, until)
    else:
        n = ring_count(until, self.rx_next)
        self.rx_next = until
        while n:
            post(self, self.rx_posted)
            self.rx_posted += 1
            n -= 1
        store_release16(&self.rx_ring.head, self.rx_posted)


cdef inline int admit_slot(
    memif_session_t *self, uint16_t slot, memif_desc_t *desc, const uint8_t **data, bint server
) noexcept nogil:
    """Reads and checks one descriptor of a received frame; returns 0, or -1 - its drop reason."""
    cdef memif_region_t *region
    if server:
        desc[0] = memif_desc_read(&self.rx_ring.desc[slot])
        if desc.region >= self.n_regions or desc.length == 0:
            return -1 - <int>DROP_BAD_DESCRIPTOR
        region = &self.regions[desc.region]
        if <uint64_t>desc.offset + desc.length > region.size:
            return -1 - <int>DROP_BAD_DESCRIPTOR
        data[0] = region.base + desc.offset
    else:
        desc[0] = memif_desc_read_head(&self.rx_ring.desc[slot])
        if desc.length == 0 or desc.length > self.buffer_bytes:
            return -1 - <int>DROP_BAD_DESCRIPTOR
        data[0] = self.regions[0].base + self.rx_buffers + <size_t>slot * self.buffer_bytes
    return 0


cdef inline int admit_chain(
    memif_session_t *self, burst_t *burst, frame_t *frame, uint16_t *index, bint server
) noexcept nogil:
    """Collects the further slots of a chained frame; `index` is moved behind its last slot.

    Returns 0, or -1 - its drop reason.
    """
    cdef memif_desc_t desc
    cdef segment_t *segment
    cdef int error = 0
    cdef int found
    if burst.n_segments + <uint32_t>FRAME_SEGMENTS > BURST_SEGMENTS:
        return -1 - <int>DROP_BAD_CHAIN     # only with frames before it: it gets its turn
    frame.more = &burst.segments[burst.n_segments]
    while True:
        if index[0] == self.rx_end:
            # Senders publish whole frames only: this one never ends.
            return -1 - <int>DROP_BAD_CHAIN
        if frame.n_more + 1 >= FRAME_SEGMENTS:
            error = -1 - <int>DROP_BAD_CHAIN
            frame.n_more = 0
        segment = &burst.segments[burst.n_segments + frame.n_more]
        found = admit_slot(self, ring_slot(index[0], self.rx_mask), &desc, &segment.data, server)
        if found:
            error = found
        index[0] += 1
        segment.length = desc.length
        frame.n_more += 1
        if not error:
            frame.length += desc.length
            if frame.length > self.frame_bytes_max:
                error = -1 - <int>DROP_TOO_BIG
        if not desc.flags & MEMIF_DESC_NEXT:
            break
    if not error:
        burst.n_segments += frame.n_more
    return error


cdef inline int admit(
    memif_session_t *self, burst_t *burst, frame_t *frame, uint16_t *index, uint32_t shortest, bint ip_mode, bint server
) noexcept nogil:
    """Fills in `frame` from the slots at `index`, which is moved behind it; 0, or -1 - its drop reason."""
    cdef memif_desc_t desc
    cdef int error = admit_slot(self, ring_slot(index[0], self.rx_mask), &desc, &frame.data, server)
    cdef int chain_error
    if error == 0:
        prefetch_read(frame.data)
    index[0] += 1
    frame.segment_length = frame.length = desc.length
    frame.n_more = 0
    frame.offload.flags = 0
    frame.offload.gso_type = 0
    if desc.flags & MEMIF_DESC_NEXT:
        self.rx_chained = True
        chain_error = admit_chain(self, burst, frame, index, server)
        if error == 0:
            error = chain_error
    if error:
        if error == -1 - <int>DROP_BAD_DESCRIPTOR:
            frame.length = 0    # whatever the peer claims
        return error
    if frame.length < shortest:
        return -1 - <int>DROP_RUNT
    if frame.length > self.frame_bytes_max:
        return -1 - <int>DROP_TOO_BIG
    if ip_mode and frame.data[0] >> 4 != 4 and frame.data[0] >> 4 != 6:
        return -1 - <int>DROP_NOT_IP
    return 0


cdef inline uint32_t receive(memif_port_t *port, burst_t *burst, flow_t *flow, bint server) noexcept nogil:
    cdef memif_session_t *self = usable(port)
    cdef bint ip_mode = (port.port.flags & PORT_IP) != 0
    cdef uint32_t shortest = 1 if ip_mode else <uint32_t>ETHERNET_HEADER
    cdef uint16_t index, end, most
    cdef uint32_t n = 0
    cdef int error
    port.port.polls += 1
    burst.n_frames = burst.n_segments = 0
    port.in_hand = self
    if self == NULL:
        return 0
    index = self.rx_next
    self.rx_chained = False
    if ring_count(self.rx_end, index) < BURST_FRAMES:
        end = load_acquire16(&self.rx_ring.head if server else &self.rx_ring.tail)
        most = <uint16_t>(self.rx_mask + 1) if server else ring_count(self.rx_posted, index)
        if ring_count(end, index) > most:
            fail(&port.port, FAULT_INDEX)
            return 0
        self.rx_end = end
    fetch_descriptors(self.rx_ring, index, self.rx_end, BURST_FRAMES, self.rx_mask, False)
    while index != self.rx_end and n < BURST_FRAMES:
        error = admit(self, burst, &burst.frames[n], &index, shortest, ip_mode, server)
        if error:
            if n:
                break   # it gets its turn at the head of the next burst
            flow.in_frames += 1
            flow.in_bytes += burst.frames[n].length
            flow.drops[-1 - error] += 1
            give_back(self, index, True, server)
            self.bad_frames += 1
            if self.bad_frames == MEMIF_PATIENCE:
                fail(&port.port, FAULT_FRAMES)
                return 0
            continue
        self.rx_after[n] = index
        n += 1
    burst.n_frames = n
    return n


cdef inline void release_frames(memif_port_t *port, uint32_t n, bint server) noexcept nogil:
    # The session that lent them, though control may have taken it out of the port meanwhile: what
    # has been received must not look as if it still lay there (`count_missed`).
    cdef memif_session_t *self = port.in_hand
    if n:
        give_back(self, self.rx_after[n - 1], self.rx_chained, server)


# --- Sending --------------------------------------------------------------------------------


cdef inline bint room_for(
    memif_session_t *self, uint16_t slot, uint8_t **to, uint32_t *capacity, memif_desc_t *desc, bint server
) noexcept nogil:
    """Finds a slot's buffer and how much fits; False if what the peer lent is unusable."""
    cdef memif_region_t *region
    if not server:
        desc.region = 0
        desc.offset = self.tx_buffers + slot * self.buffer_bytes
        to[0] = self.regions[0].base + desc.offset
        capacity[0] = self.buffer_bytes
        return True
    desc[0] = memif_desc_read(&self.tx_ring.desc[slot])
    if desc.region >= self.n_regions:
        return False
    region = &self.regions[desc.region]
    if desc.length == 0 or <uint64_t>desc.offset + desc.length > region.size:
        return False
    to[0] = region.base + desc.offset
    capacity[0] = desc.length
    return True


cdef inline void fill_slot(
    memif_session_t *self, uint16_t slot, const memif_desc_t *desc, uint16_t flags, uint32_t length, bint server
) noexcept nogil:
    if server:
        memif_desc_write_head(&self.tx_ring.desc[slot], flags, desc.region, length)
    else:
        memif_desc_write(&self.tx_ring.desc[slot], flags, desc.region, length, desc.offset)


cdef int count_slots(memif_session_t *self, uint16_t *index, uint32_t length, bint server) noexcept nogil:
    """Moves `index` over the slots that `length` bytes need; 1 if there are enough, 0 if not, -1 for a fault."""
    cdef memif_desc_t desc
    cdef uint8_t *to
    cdef uint32_t capacity
    while length:
        if index[0] == self.tx_end:
            return 0
        if not room_for(self, ring_slot(index[0], self.tx_mask), &to, &capacity, &desc, server):
            return -1
        index[0] += 1
        length -= capacity if capacity < length else length
    return 1


cdef int put_chain(
    memif_session_t *self,
    const uint8_t *data,
    uint32_t have,
    const segment_t *more,
    uint32_t length,
    uint16_t *index,
    bint server,
) noexcept nogil:
    """Copies a frame of one or more segments into as many slots as it needs, which were counted.

    `data`, `have`: the first segment; `more`: the further ones. Returns 1, or -1 for a fault: the
    peer has changed its buffers since.
    """
    cdef memif_desc_t desc
    cdef uint8_t *to = NULL
    cdef uint32_t capacity = 0
    cdef uint32_t filled, piece
    cdef uint16_t slot
    while length:
        slot = ring_slot(index[0], self.tx_mask)
        if index[0] == self.tx_end or not room_for(self, slot, &to, &capacity, &desc, server):
            return -1
        filled = 0
        while filled < capacity and length:
            if have == 0:
                data = more.data
                have = more.length
                more += 1
                continue
            piece = have if have < capacity - filled else capacity - filled
            memcpy(to + filled, data, piece)
            data += piece
            have -= piece
            filled += piece
            length -= piece
        fill_slot(self, slot, &desc, MEMIF_DESC_NEXT if length else 0, filled, server)
        index[0] += 1
    return 1


cdef int send_slowly(
    memif_port_t *port, memif_session_t *self, const frame_t *frame, uint8_t *spare, bint server
) noexcept nogil:
    """Sends one frame that needs more than a copy: chained, longer than a slot, or to be finished.

    `spare` has room for one frame in one piece.

    Returns 1 (sent), 0 (no room now), or a negative number: -1 - drop reason, or -1 -
    DROP_LINK_DOWN after a fault.
    """
    cdef gso_t gso
    cdef memif_desc_t desc
    cdef uint8_t *to
    cdef uint32_t capacity, length, i
    cdef uint16_t index = self.tx_next
    cdef uint16_t slot
    cdef int found
    cdef bint finish = (frame.offload.flags & OFFLOAD_NEEDS_CSUM) != 0 or frame.offload.gso_type != 0
    if finish:
        found = gso_parse(frame, (port.port.flags & PORT_IP) != 0, &gso)
        if found:
            return found
    else:
        gso.n_segments = 1
    # All or nothing: what is not there for the last segment is not there for the first.
    for i in range(gso.n_segments):
        length = gso_segment_length(&gso, i) if finish else frame.length
        found = count_slots(self, &index, length, server)
        if found < 0:
            fail(&port.port, FAULT_BUFFER)
            return -1 - <int>DROP_LINK_DOWN
        if found == 0:
            if ring_count(self.tx_end, self.tx_next) > self.tx_mask:
                return -1 - <int>DROP_TOO_BIG     # not even the whole ring has room
            if ring_count(self.tx_end, self.tx_next) >= self.tx_frame_slots:
                self.tx_frame_slots = min(<uint16_t>(2 * self.tx_frame_slots), <uint16_t>((self.tx_mask + 1) // 2))
            return 0
    index = self.tx_next
    if not finish:
        found = put_chain(self, frame.data, frame.segment_length, frame.more, frame.length, &index, server)
    else:
        for i in range(gso.n_segments):
            length = gso_segment_length(&gso, i)
            slot = ring_slot(index, self.tx_mask)
            found = 1 if room_for(self, slot, &to, &capacity, &desc, server) else -1
            if found > 0 and length <= capacity:
                gso_write(frame, &gso, i, to)
                fill_slot(self, slot, &desc, 0, length, server)
                index += 1
            elif found > 0:
                gso_write(frame, &gso, i, spare)
                found = put_chain(self, spare, length, NULL, length, &index, server)
            if found < 0:
                break
    if found < 0:
        fail(&port.port, FAULT_BUFFER)
        return -1 - <int>DROP_LINK_DOWN
    self.tx_next = index
    return 1


cdef inline bint see_room(memif_port_t *port, memif_session_t *self, bint server) noexcept nogil:
    """Reads how far the peer lets us send; False for a fault."""
    cdef uint16_t end
    if server:
        end = load_acquire16(&self.tx_ring.head)
    else:
        end = <uint16_t>(load_acquire16(&self.tx_ring.tail) + self.tx_mask + 1)
    if ring_count(end, self.tx_next) > <uint32_t>self.tx_mask + 1:
        fail(&port.port, FAULT_INDEX)
        return False
    self.tx_end = end
    return True


cdef inline void publish(memif_port_t *port, memif_session_t *self, bint server) noexcept nogil:
    """Shows the peer what was sent, and wakes it unless it polls."""
    store_release16(&self.tx_ring.tail if server else &self.tx_ring.head, self.tx_next)
    full_fence()
    if not load_relaxed16(&self.tx_ring.flags) & MEMIF_RING_MASK_INT:
        port.port.kicks += 1
        eventfd_write(self.tx_fd, 1)


cdef inline bint is_plain(const frame_t *frame) noexcept nogil:
    """One piece that needs nothing but a copy."""
    return frame.n_more == 0 and not frame.offload.flags & OFFLOAD_NEEDS_CSUM and frame.offload.gso_type == 0


cdef inline uint32_t place_plain(
    memif_session_t *self, const frame_t *frames, uint32_t n, copy_t *copies, bint *fault, bint server
) noexcept nogil:
    """Fills slots for the plain frames at the head of `frames`, and lists their copies; returns how many.

    It stops at a frame that needs more than a copy, at the last slot that may be filled, and at a
    fault. Its numbers live in registers: this is the loop that every small frame goes through.
    """
    cdef uint32_t index = self.tx_next
    cdef uint32_t room = ring_count(self.tx_end, self.tx_next)
    cdef memif_desc_t desc
    cdef uint8_t *to
    cdef uint32_t capacity, i
    cdef uint16_t slot
    if n > room:
        n = room
    for i in range(n):
        slot = ring_slot(<uint16_t>(index + i), self.tx_mask)
        if not room_for(self, slot, &to, &capacity, &desc, server):
            fault[0] = True
            n = i
            break
        if frames[i].length > capacity or not is_plain(&frames[i]):
            n = i
            break
        copies[i].to = to
        copies[i].from_ = frames[i].data
        copies[i].length = frames[i].length
        fill_slot(self, slot, &desc, 0, frames[i].length, server)
    self.tx_next = <uint16_t>(index + n)
    return n


cdef inline uint32_t send(memif_port_t *port, burst_t *burst, uint32_t first, flow_t *flow, bint server) noexcept nogil:
    cdef memif_session_t *self = usable(port)
    cdef copy_t copies[BURST_FRAMES]
    cdef uint32_t i = first
    cdef uint32_t n_copies = 0
    cdef uint32_t placed, k
    cdef uint64_t sent = 0
    cdef uint64_t sent_bytes = 0
    cdef uint16_t before
    cdef int done
    cdef bint fault = False
    if self == NULL:
        flow.drops[<int>DROP_LINK_DOWN] += burst.n_frames - first
        return burst.n_frames - first
    before = self.tx_next
    if ring_count(self.tx_end, before) < burst.n_frames - first and not see_room(port, self, server):
        return 0
    fetch_descriptors(self.tx_ring, before, self.tx_end, burst.n_frames - first, self.tx_mask, True)
    while i < burst.n_frames:
        placed = place_plain(self, &burst.frames[i], burst.n_frames - i, &copies[n_copies], &fault, server)
        for k in range(placed):
            sent_bytes += burst.frames[i + k].length
        sent += placed
        n_copies += placed
        i += placed
        if fault:
            fail(&port.port, FAULT_BUFFER)
            break
        if i == burst.n_frames or self.tx_next == self.tx_end:
            break
        if ring_count(self.tx_end, self.tx_next) <= FRAME_SEGMENTS and not see_room(port, self, server):
            break
        done = send_slowly(port, self, &burst.frames[i], burst_spare(burst), server)
        if done == 0:
            break
        if done < 0:
            flow.drops[-1 - done] += 1
        else:
            sent += 1
            sent_bytes += burst.frames[i].length
        i += 1
    copy_all(copies, n_copies)
    flow.out_frames += sent
    flow.out_bytes += sent_bytes
    if self.tx_next != before:
        publish(port, self, server)
    return i - first


cdef inline uint32_t room(memif_port_t *port, bint server) noexcept nogil:
    """Gives for how many frames there is room if each is as long as they come."""
    cdef memif_session_t *self = usable(port)
    cdef uint32_t n
    if self == NULL:
        return BURST_FRAMES
    if ring_count(self.tx_end, self.tx_next) < BURST_FRAMES * <uint32_t>self.tx_frame_slots:
        if not see_room(port, self, server):
            return BURST_FRAMES
    n = ring_count(self.tx_end, self.tx_next) // <uint32_t>self.tx_frame_slots
    return n if n < BURST_FRAMES else <uint32_t>BURST_FRAMES


# --- Sleeping -------------------------------------------------------------------------------


cdef inline bint prepare_to_sleep(memif_port_t *port, bint server) noexcept nogil:
    cdef memif_session_t *self = usable(port)
    if self == NULL:
        return False
    store_relaxed16(&self.rx_ring.flags, 0)
    full_fence()    # a peer that publishes from here on sees the flag, or we see its index
    if load_acquire16(&self.rx_ring.head if server else &self.rx_ring.tail) == self.rx_next:
        return False
    store_relaxed16(&self.rx_ring.flags, MEMIF_RING_MASK_INT)
    return True


cdef void memif_disarm(port_t *port) noexcept nogil:
    cdef memif_session_t *self = usable(<memif_port_t *>port)
    if self != NULL:
        store_relaxed16(&self.rx_ring.flags, MEMIF_RING_MASK_INT)


# --- The two roles --------------------------------------------------------------------------


cdef uint32_t server_rx_burst(port_t *port, burst_t *burst, flow_t *flow) noexcept nogil:
    return receive(<memif_port_t *>port, burst, flow, True)


cdef uint32_t client_rx_burst(port_t *port, burst_t *burst, flow_t *flow) noexcept nogil:
    return receive(<memif_port_t *>port, burst, flow, False)


cdef void server_rx_release(port_t *port, burst_t *burst, uint32_t n) noexcept nogil:
    release_frames(<memif_port_t *>port, n, True)


cdef void client_rx_release(port_t *port, burst_t *burst, uint32_t n) noexcept nogil:
    release_frames(<memif_port_t *>port, n, False)


cdef uint32_t server_tx_burst(port_t *port, burst_t *burst, uint32_t first, flow_t *flow) noexcept nogil:
    return send(<memif_port_t *>port, burst, first, flow, True)


cdef uint32_t client_tx_burst(port_t *port, burst_t *burst, uint32_t first, flow_t *flow) noexcept nogil:
    return send(<memif_port_t *>port, burst, first, flow, False)


cdef uint32_t server_tx_room(port_t *port) noexcept nogil:
    return room(<memif_port_t *>port, True)


cdef uint32_t client_tx_room(port_t *port) noexcept nogil:
    return room(<memif_port_t *>port, False)


cdef bint server_arm(port_t *port) noexcept nogil:
    return prepare_to_sleep(<memif_port_t *>port, True)


cdef bint client_arm(port_t *port) noexcept nogil:
    return prepare_to_sleep(<memif_port_t *>port, False)


# --- Control's side -------------------------------------------------------------------------


def file_system_type(int fd):
    """Returns the type of the file system that a file is on, as in linux/magic.h."""
    cdef statfs found
    if fstatfs(fd, &found):
        raise DataplaneError(f"looking at the file system of descriptor {fd}", errno=errno)
    return <uint32_t>found.f_type


cdef class MemifSession:
    """The mapped memory of one connection.

    `regions`: (descriptor, size in bytes) by index; the descriptors may be closed afterwards.
    `to_server`, `to_client`: the two rings as (region, offset, log2 of the slots, eventfd); the
    eventfds are borrowed until `close`. A client also says where its buffers are in region 0: slot
    0's offset for each direction, and their size.

    Raises RemoteProtocolError when a ring is not what it should be, DataplaneError when the memory
    cannot be mapped.
    """

    def __cinit__(
        self,
        *,
        bint server,
        list regions not None,
        tuple to_server not None,
        tuple to_client not None,
        uint32_t frame_bytes_max=FRAME_BYTES_MAX,
        uint32_t buffer_bytes=0,
        uint32_t to_server_buffers=0,
        uint32_t to_client_buffers=0,
    ):
        if not 0 < len(regions) <= MEMIF_REGIONS:
            raise RemoteProtocolError(f"memif with {len(regions)} regions, not within 1..{<int>MEMIF_REGIONS}")
        self.server = server
        self.c = <memif_session_t *>allocate(ALLOCATED_MEMIF_SESSION, sizeof(memif_session_t))
        try:
            if sigbus_install():
                raise DataplaneError("installing the SIGBUS handler", errno=errno)
            for fd, size in regions:
                self.map(fd, size)
            rx, tx = (to_server, to_client) if server else (to_client, to_server)
            region, offset, log2_size, fd = rx
            self.c.rx_ring = self.find_ring(region, offset, log2_size)
            self.c.rx_mask = <uint16_t>((1 << <int>log2_size) - 1)
            self.c.rx_fd = fd
            region, offset, log2_size, fd = tx
            self.c.tx_ring = self.find_ring(region, offset, log2_size)
            self.c.tx_mask = <uint16_t>((1 << <int>log2_size) - 1)
            self.c.tx_fd = fd
            self.c.tx_frame_slots = min(<uint16_t>SUPER_FRAME_SLOTS, <uint16_t>((self.c.tx_mask + 1) // 2))
            self.c.frame_bytes_max = min(frame_bytes_max, <uint32_t>FRAME_BYTES_MAX)
            if not server:
                self.c.buffer_bytes = buffer_bytes
                self.c.rx_buffers = to_client_buffers
                self.c.tx_buffers = to_server_buffers
                for first, mask in ((to_client_buffers, self.c.rx_mask), (to_server_buffers, self.c.tx_mask)):
                    if buffer_bytes == 0 or first + (mask + 1) * buffer_bytes > self.c.regions[0].size:
                        raise DataplaneError("memif buffers outside region 0", errno=EINVAL)
        except BaseException:
            self.close()
            raise

    cdef int map(self, int fd, uint64_t size) except -1:
        """Maps one region; the next index is its own."""
        cdef uint32_t i = self.c.n_regions
        # A page of a huge-page file is mapped whole or not at all.
        page = os.fstat(fd).st_blksize
        cdef size_t rounded = (size + page - 1) // page * page
        cdef void *base = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise DataplaneError(f"mapping memif region {i} of {size} bytes", errno=errno)
        self.watches[i] = sigbus_watch(<uint8_t *>base, rounded, &self.c.dead)
        if self.watches[i] < 0:
            munmap(base, rounded)
            raise DataplaneError(f"mapping memif region {i}: too many regions in this process", errno=ENOSPC)
        madvise(base, rounded, MADV_DONTFORK)
        madvise(base, rounded, MADV_DONTDUMP)
        self.mapped[i] = rounded
        self.c.regions[i].base = <uint8_t *>base
        self.c.regions[i].size = size
        self.c.n_regions = i + 1
        count_resource(ALLOCATED_MEMIF_MAPPING, +1)
        return 0

    cdef memif_ring_t *find_ring(self, uint32_t region, uint64_t offset, uint32_t log2_size) except NULL:
        """Gives a ring's address; raises RemoteProtocolError unless it is one."""
        cdef memif_ring_t *ring
        if (
            region >= self.c.n_regions
            or not 0 < log2_size <= 14
            or offset % DESCRIPTOR
            or offset + RING_HEADER + (<uint64_t>DESCRIPTOR << log2_size) > self.c.regions[region].size
        ):
            raise RemoteProtocolError(f"memif ring of 2^{log2_size} slots at {offset} of region {region}")
        ring = <memif_ring_t *>(self.c.regions[region].base + offset)
        cookie = load_relaxed32(&ring.cookie)
        if cookie != MEMIF_COOKIE:
            raise RemoteProtocolError(f"memif ring at {offset} of region {region} has cookie {cookie:#010x}")
        return ring

    def close(self):
        """Unmaps the memory. Nobody may run a port with it any more. Safe to call twice."""
        cdef uint32_t i
        if self.port is not None:
            raise DataplaneError(f"memif session is still attached to {self.port!r}", errno=EBUSY)
        if self.c == NULL:
            return
        for i in range(self.c.n_regions):
            sigbus_forget(self.watches[i])
            munmap(self.c.regions[i].base, self.mapped[i])
            count_resource(ALLOCATED_MEMIF_MAPPING, -1)
        release(ALLOCATED_MEMIF_SESSION, self.c)
        self.c = NULL

    def __del__(self):
        # Attached, it is its port that was forgotten, which says so.
        if self.c != NULL and self.port is None:
            warnings.warn("a memif session was never closed", ResourceWarning, source=self, stacklevel=1)

    def __dealloc__(self):
        self.port = None
        if self.c != NULL:
            self.close()


cdef class MemifPort(Port):
    """A port over memif. Without a session it is down: frames sent to it are dropped as `link_down`."""

    def __cinit__(self, *, str name="memif", bint server, bint ip_mode=False):
        self.memif = <memif_port_t *>allocate(ALLOCATED_MEMIF_PORT, sizeof(memif_port_t))
        self.c = &self.memif.port
        self.name = name
        self.server = server
        self.c.flags = PORT_HOLDS | PORT_EDGE | PORT_UNFENCED
        if ip_mode:
            self.c.flags |= PORT_IP
        self.c.wait_fd = self.c.registered_fd = -1
        self.c.rx_burst = server_rx_burst if server else client_rx_burst
        self.c.rx_release = server_rx_release if server else client_rx_release
        self.c.tx_room = server_tx_room if server else client_tx_room
        self.c.tx_burst = server_tx_burst if server else client_tx_burst
        self.c.arm = server_arm if server else client_arm
        self.c.disarm = memif_disarm

    def __del__(self):
        if self.session is not None:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=1)

    def __dealloc__(self):
        release(ALLOCATED_MEMIF_PORT, self.memif)

    def __repr__(self):
        return f"<MemifPort {self.name}>"

    def attach(self, MemifSession session not None):
        """Lets frames pass through `session`'s memory from here on.

        A client lends its receive buffers to the server now: the server must have said that it is
        connected, for some wipe the rings until then.
        """
        if self.session is not None or session.port is not None or session.c == NULL:
            raise DataplaneError(f"{self!r} or the session is attached already, or the session is closed", errno=EBUSY)
        if session.server != self.server:
            raise DataplaneError(f"{self!r} and its session have different roles", errno=EINVAL)
        store_relaxed16(&session.c.rx_ring.flags, MEMIF_RING_MASK_INT)
        if not self.server:
            session.c.tx_end = <uint16_t>(session.c.tx_mask + 1)
            while session.c.rx_posted != session.c.rx_mask + 1:
                post(session.c, session.c.rx_posted)
                session.c.rx_posted += 1
            store_release16(&session.c.rx_ring.head, session.c.rx_posted)
        self.session = session
        session.port = self
        store_release32(&self.c.fault, FAULT_NONE)
        clear_bits32(&self.c.state, PORT_DEAD)
        self.told = False
        exchange_ptr(&self.memif.session, session.c)
        store_release_int(&self.c.wait_fd, session.c.rx_fd)
        set_bits32(&self.c.state, PORT_CONNECTED)
        self.changed()

    def detach(self):
        """Takes the session away, if there is one.

        Returns it, and the generation of the worker's plan from which on nothing of it is touched
        any more (None: at once); then it can be closed. Frames under way are lost.
        """
        session = self.session
        if session is None:
            return None, None
        clear_bits32(&self.c.state, PORT_CONNECTED | PORT_DEAD)
        store_release_int(&self.c.wait_fd, -1)
        exchange_ptr(&self.memif.session, NULL)
        self.session = None
        (<MemifSession>session).port = None
        return session, self.changed()

    def count_missed(self, MemifSession session not None):
        """Counts the frames that lie in a detached session and that nobody will receive any more.

        Nobody may look at it any more: its generation has been adopted.
        """
        cdef memif_session_t *c = session.c
        cdef uint16_t index, end, most
        if c == NULL or c.dead:
            return
        index = c.rx_next
        end = load_acquire16(&c.rx_ring.head if self.server else &c.rx_ring.tail)
        most = <uint16_t>(c.rx_mask + 1) if self.server else ring_count(c.rx_posted, index)
        if ring_count(end, index) > most:
            return      # nonsense
        while index != end:
            if not memif_desc_read_head(&c.rx_ring.desc[ring_slot(index, c.rx_mask)]).flags & MEMIF_DESC_NEXT:
                self.c.missed += 1
            index += 1

    def close(self):
        """Closes the session, if there is one. Nobody may run the port any more. Safe to call twice."""
        if self.wire is not None:
            raise DataplaneError(f"{self!r} is still run by {self.wire!r}", errno=EBUSY)
        session, _ = self.detach()
        if session is not None:
            self.count_missed(session)
            session.close()

    cdef object changed(self):
        """Has the runner look at `wait_fd` again."""
        return None if self.wire is None else self.wire.refresh()

    cdef str describe_fault(self, uint32_t fault):
        return _FAULTS.get(fault, "the port broke")
