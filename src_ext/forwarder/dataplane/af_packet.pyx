"""Frames from and to a packet socket.

Receiving copies into the worker's pool, a burst per system call, so that an idle port
costs no memory; or lends from a mapped ring, which a busy port gets. Sending gathers
straight from the slots of the port that lent the frames. No system call blocks; what
fails becomes a counter or a state.

The kernel takes the outer VLAN tag out of a received frame and puts it into metadata
(PACKET_AUXDATA): it is put back before the frame is lent.
"""

from libc.errno cimport EAGAIN, EINTR, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS, ENODEV, ENOMEM, ENXIO, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from forwarder.dataplane.allocation cimport ALLOCATED_PACKET_PORT, allocate, release
from forwarder.dataplane.atomics cimport (
    clear_bits32,
    exchange_ptr,
    full_fence,
    load_acquire32,
    load_acquire_ptr,
    set_bits32,
    store_release32,
    store_release_int,
)
from forwarder.dataplane.coalesce cimport COALESCED_HEADER_MAX, coalesce
from forwarder.dataplane.counters cimport (
    DROP_BAD_OFFLOAD,
    DROP_LINK_DOWN,
    DROP_NOT_IP,
    DROP_RUNT,
    DROP_SEND_ERROR,
    DROP_TOO_BIG,
    DROP_TRUNCATED,
    flow_t,
)
from forwarder.dataplane.frame cimport (
    BURST_FRAMES,
    BURST_SEGMENTS,
    GSO_NONE,
    OFFLOAD_NEEDS_CSUM,
    POOL_FRAMES,
    POOL_SLOT_BYTES,
    burst_t,
    frame_t,
    segment_t,
)
from forwarder.dataplane.headers cimport ETHERNET_HEADER, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, be16
from forwarder.dataplane.linux cimport (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    PACKET_AUXDATA,
    PACKET_QDISC_BYPASS,
    PACKET_STATISTICS,
    POLLIN,
    SO_ERROR,
    SOL_PACKET,
    SOL_SOCKET,
    TP_STATUS_VLAN_TPID_VALID,
    TP_STATUS_VLAN_VALID,
    cmsghdr,
    getsockopt,
    iovec,
    mmsghdr,
    msghdr,
    poll,
    pollfd,
    recvmmsg,
    sendmmsg,
    setsockopt,
    tpacket2_hdr,
    tpacket_auxdata,
    tpacket_stats,
    virtio_net_hdr,
)
from forwarder.dataplane.packet_ring cimport (
    RING_ENTERING,
    RING_LEAVING,
    RING_STEADY,
    PacketRing,
    packet_ring_t,
    ring_give_back,
    ring_ours,
    ring_slot,
)
from forwarder.dataplane.port cimport PORT_CONNECTED, PORT_DEAD, PORT_HOLDS, PORT_IP, PORT_QUEUES, Port, port_t
from forwarder.dataplane.vlan cimport VLAN_TAG_BYTES, VLAN_TPID, vlan_push

cdef enum:
    HEADROOM = 64               # before a received frame, for a VLAN tag
    LARGE_FRAME = 16384         # bytes from which a slot of a ring is not wasted on a frame
    COALESCED_MAX = BURST_FRAMES // 2
    BURSTS_APART = 1024         # that go uncoalesced after a refusal, whose reason may pass or stay
    VECTORS = 3 * BURST_FRAMES + BURST_SEGMENTS     # offload header, Ethernet header, first segment; the others

# What one message is made of.
cdef struct outgoing_t:
    const frame_t *frame
    uint32_t n              # how many frames it stands for

# The super-frames made of one burst.
cdef struct coalesced_t:
    uint32_t n
    uint32_t n_pieces
    frame_t wholes[COALESCED_MAX]
    uint8_t headers[COALESCED_MAX][COALESCED_HEADER_MAX]
    segment_t pieces[BURST_FRAMES]

# The one control message that is asked for.
cdef struct control_t:
    cmsghdr header
    tpacket_auxdata aux


cdef inline void count_drop(flow_t *flow, int reason, uint32_t length) noexcept nogil:
    """Counts a frame that was received and is not lent."""
    flow.in_frames += 1
    flow.in_bytes += length
    flow.drops[reason] += 1


cdef int admit(
    af_packet_t *self, uint8_t *data, uint32_t length, bint tagged, virtio_net_hdr *header, frame_t *frame
) noexcept nogil:
    """Fills in `frame` for a received Ethernet frame; returns 0, or -1 - its drop reason.

    `tagged`: the frame came with a VLAN tag, which is already back in place.
    """
    cdef uint32_t cut = 0
    frame.data = data
    frame.segment_length = length
    frame.length = length
    frame.more = NULL
    frame.n_more = 0
    if length < ETHERNET_HEADER:
        return -1 - <int>DROP_RUNT
    if self.ip_mode:
        if tagged or be16(data + 12) not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6) or length == ETHERNET_HEADER:
            return -1 - <int>DROP_NOT_IP
        cut = ETHERNET_HEADER
        frame.data = data + cut
        frame.segment_length = length - cut
        frame.length = length - cut
    frame.offload.flags = header.flags
    frame.offload.gso_type = header.gso_type
    frame.offload.gso_size = header.gso_size
    frame.offload.header_length = <uint16_t>(header.hdr_len - cut) if header.hdr_len > cut else 0
    frame.offload.csum_offset = header.csum_offset
    frame.offload.csum_start = header.csum_start
    if header.flags & OFFLOAD_NEEDS_CSUM:
        if header.csum_start < cut:
            return -1 - <int>DROP_BAD_OFFLOAD
        frame.offload.csum_start = <uint16_t>(header.csum_start - cut)
    return 0


cdef uint8_t *restore_tag(
    uint8_t *data, uint32_t status, uint16_t tpid, uint16_t tci, virtio_net_hdr *header
) noexcept nogil:
    """Puts the VLAN tag back that the kernel took out; returns where the frame starts now."""
    if header.flags & OFFLOAD_NEEDS_CSUM:
        header.csum_start += VLAN_TAG_BYTES
    if header.hdr_len:
        header.hdr_len += VLAN_TAG_BYTES
    return vlan_push(data, tpid if status & TP_STATUS_VLAN_TPID_VALID else <uint16_t>VLAN_TPID, tci)


cdef bint readable(int fd) noexcept nogil:
    """Whether frames wait behind a descriptor, or an error."""
    cdef pollfd look
    look.fd = fd
    look.events = POLLIN
    look.revents = 0
    return poll(&look, 1, 0) > 0


cdef uint32_t receive_pool(af_packet_t *self, burst_t *burst, flow_t *flow) noexcept nogil:
    """Receives into the pool, at most `burst.most` frames and what the pool holds.

    Frames that may not pass are counted and left out: the rest is not held.
    """
    cdef mmsghdr messages[POOL_FRAMES]
    cdef iovec vectors[2 * POOL_FRAMES]
    cdef control_t controls[POOL_FRAMES]
    cdef virtio_net_hdr headers[POOL_FRAMES]
    cdef msghdr *message
    cdef uint8_t *data
    cdef uint32_t i
    cdef uint32_t length
    cdef uint32_t most = burst.most if burst.most < POOL_FRAMES else <uint32_t>POOL_FRAMES
    cdef int n
    cdef int reason
    cdef bint tagged
    self.port.flags &= ~<uint32_t>PORT_HOLDS
    if most == 0:
        burst.waiting = readable(self.fd)
        return 0
    for i in range(most):
        vectors[2 * i].iov_base = &headers[i]
        vectors[2 * i].iov_len = sizeof(virtio_net_hdr)
        vectors[2 * i + 1].iov_base = burst.pool + i * POOL_SLOT_BYTES + HEADROOM
        vectors[2 * i + 1].iov_len = POOL_SLOT_BYTES - HEADROOM
        message = &messages[i].msg_hdr
        message.msg_name = NULL
        message.msg_namelen = 0
        message.msg_iov = &vectors[2 * i]
        message.msg_iovlen = 2
        message.msg_control = &controls[i]
        message.msg_controllen = sizeof(control_t)
        message.msg_flags = 0
    n = recvmmsg(self.fd, messages, most, MSG_DONTWAIT, NULL)
    if n <= 0:
        # Nothing there, or the link went down, which control learns by itself; reading cleared the error.
        return 0
    self.received += <uint32_t>n
    for i in range(<uint32_t>n):
        message = &messages[i].msg_hdr
        data = <uint8_t *>vectors[2 * i + 1].iov_base
        if messages[i].msg_len < sizeof(virtio_net_hdr):
            count_drop(flow, DROP_RUNT, 0)
            continue
        length = messages[i].msg_len - <uint32_t>sizeof(virtio_net_hdr)
        if length >= LARGE_FRAME:
            self.received_large += 1
        if message.msg_flags & MSG_TRUNC:
            count_drop(flow, DROP_TRUNCATED, length)
            continue
        tagged = False
        if (
            message.msg_controllen >= sizeof(control_t)
            and controls[i].header.cmsg_level == SOL_PACKET
            and controls[i].header.cmsg_type == PACKET_AUXDATA
            and controls[i].aux.tp_status & TP_STATUS_VLAN_VALID
            and length >= ETHERNET_HEADER
        ):
            tagged = True
            data = restore_tag(
                data, controls[i].aux.tp_status, controls[i].aux.tp_vlan_tpid, controls[i].aux.tp_vlan_tci,
                &headers[i],
            )
            length += VLAN_TAG_BYTES
        reason = -1 - admit(self, data, length, tagged, &headers[i], &burst.frames[burst.n_frames])
        if reason >= 0:
            count_drop(flow, reason, length)
        else:
            burst.n_frames += 1
    return burst.n_frames


cdef int look_into(af_packet_t *self, tpacket2_hdr *slot, frame_t *frame) noexcept nogil:
    """Fills in `frame` for the frame in a slot of the ring; returns 0, or -1 - its drop reason.

    Changes the slot so that looking again finds the same.
    """
    cdef uint8_t *data = <uint8_t *>slot + slot.tp_mac
    cdef virtio_net_hdr header
    memcpy(&header, data - sizeof(header), sizeof(header))
    if slot.tp_snaplen < slot.tp_len:
        frame.length = slot.tp_len
        return -1 - <int>DROP_TRUNCATED
    if slot.tp_status & TP_STATUS_VLAN_VALID and slot.tp_snaplen >= ETHERNET_HEADER:
        if self.ip_mode:
            frame.length = slot.tp_len
            return -1 - <int>DROP_NOT_IP
        data = restore_tag(data, slot.tp_status, slot.tp_vlan_tpid, slot.tp_vlan_tci, &header)
        slot.tp_status &= ~<uint32_t>TP_STATUS_VLAN_VALID
        slot.tp_mac -= VLAN_TAG_BYTES
        slot.tp_snaplen += VLAN_TAG_BYTES
        slot.tp_len += VLAN_TAG_BYTES
        memcpy(data - sizeof(header), &header, sizeof(header))
    return admit(self, data, slot.tp_snaplen, False, &header, frame)


cdef uint32_t receive_ring(af_packet_t *self, packet_ring_t *ring, burst_t *burst, flow_t *flow) noexcept nogil:
    """Lends from the ring. A frame that may not pass ends the burst, or is counted at its head."""
    cdef tpacket2_hdr *slot
    cdef frame_t *frame
    cdef uint32_t n = 0
    cdef int reason
    self.port.flags |= PORT_HOLDS
    while n < BURST_FRAMES and n < ring.n_slots:
        slot = ring_slot(ring, n)
        if not ring_ours(slot):
            break
        frame = &burst.frames[n]
        reason = -1 - look_into(self, slot, frame)
        if reason < 0:
            n += 1
        elif n == 0:
            count_drop(flow, reason, frame.length)
            self.received += 1
            ring_give_back(ring, 1)
        else:
            break
    burst.n_frames = n
    return n


cdef packet_ring_t *hold_ring(af_packet_t *self) noexcept nogil:
    """Returns the ring, which control leaves mapped until it is let go, or NULL."""
    cdef packet_ring_t *ring = <packet_ring_t *>load_acquire_ptr(<void *const *>&self.ring)
    cdef packet_ring_t *now
    while ring != NULL:
        exchange_ptr(<void **>&self.held, ring)
        full_fence()
        now = <packet_ring_t *>load_acquire_ptr(<void *const *>&self.ring)
        if now == ring:
            return ring
        ring = now
    exchange_ptr(<void **>&self.held, NULL)
    return NULL


cdef uint32_t packet_rx_burst(port_t *port, burst_t *burst, flow_t *flow) noexcept nogil:
    """Takes from the queue or the ring, in the order in which the kernel filled them."""
    cdef af_packet_t *self = <af_packet_t *>port
    cdef packet_ring_t *ring = hold_ring(self)
    cdef uint32_t phase
    cdef uint32_t n
    cdef uint64_t before = self.received
    cdef bint ready
    port.polls += 1
    burst.waiting = False
    burst.n_frames = 0
    burst.n_segments = 0
    if ring == NULL:
        return receive_pool(self, burst, flow)
    phase = load_acquire32(&ring.phase)
    if phase == RING_ENTERING:
        # In this order: whatever came before a frame in the ring is in the queue by now.
        ready = ring_ours(ring_slot(ring, 0))
        n = receive_pool(self, burst, flow)
        if ready and self.received == before and not burst.waiting:
            n = receive_ring(self, ring, burst, flow)
    else:
        n = receive_ring(self, ring, burst, flow)
        if n == 0 and (phase == RING_LEAVING or self.strays):
            before = self.received
            n = receive_pool(self, burst, flow)
            # What was there may not have been all.
            self.strays = burst.waiting or self.received != before
    if n == 0:
        exchange_ptr(<void **>&self.held, NULL)
    return n


cdef void packet_rx_release(port_t *port, burst_t *burst, uint32_t n) noexcept nogil:
    """Gives slots of the ring back; the pool needs no giving back."""
    cdef af_packet_t *self = <af_packet_t *>port
    cdef uint32_t i
    if self.held == NULL:
        return
    if port.flags & PORT_HOLDS:
        ring_give_back(self.held, n)
        self.received += n
        for i in range(n):
            if burst.frames[i].length >= LARGE_FRAME:
                self.received_large += 1
    exchange_ptr(<void **>&self.held, NULL)


cdef bint vlan_tagged(const frame_t *frame) noexcept nogil:
    """Whether the frame may be four bytes longer: a packet socket allows that for 802.1Q tags only."""
    return frame.segment_length >= ETHERNET_HEADER and be16(frame.data + 12) == ETHERTYPE_VLAN


cdef int refuse(const af_packet_t *self, const frame_t *frame) noexcept nogil:
    """Returns the reason why a frame can never be sent here, or -1."""
    cdef uint32_t most = self.frame_bytes_max
    if self.ip_mode:
        most -= ETHERNET_HEADER
        if frame.length == 0 or frame.segment_length == 0:
            return DROP_RUNT
    elif frame.length < ETHERNET_HEADER:
        return DROP_RUNT
    if frame.length > most and frame.offload.gso_type == GSO_NONE and (
        self.ip_mode or frame.length > most + VLAN_TAG_BYTES or not vlan_tagged(frame)
    ):
        return DROP_TOO_BIG
    return -1


cdef int gather(
    const af_packet_t *self, const frame_t *frame, virtio_net_hdr *header, uint8_t *ethernet,
    iovec *vectors, msghdr *message,
) noexcept nogil:
    """Describes one frame to the kernel without copying it; returns how many vectors that took, or -1 - reason."""
    cdef int n = 0
    cdef uint32_t shift = 0
    cdef uint16_t k
    cdef uint8_t version
    if self.ip_mode:
        shift = ETHERNET_HEADER
        version = frame.data[0] >> 4
        if version != 4 and version != 6:
            return -1 - <int>DROP_NOT_IP
        memcpy(ethernet, self.ethernet, ETHERNET_HEADER)
        if version == 6:
            ethernet[12] = ETHERTYPE_IPV6 >> 8
            ethernet[13] = ETHERTYPE_IPV6 & 0xFF
    memset(header, 0, sizeof(virtio_net_hdr))
    header.flags = frame.offload.flags
    header.gso_type = frame.offload.gso_type
    if frame.offload.gso_type != GSO_NONE:
        # Of a complete frame its source sets nothing else: the rest may be some former frame's.
        header.gso_size = frame.offload.gso_size
        if frame.offload.header_length:
            header.hdr_len = <uint16_t>min(frame.offload.header_length + shift, <uint32_t>0xFFFF)
    if frame.offload.flags & OFFLOAD_NEEDS_CSUM:
        if frame.offload.csum_start + shift > 0xFFFF:
            return -1 - <int>DROP_BAD_OFFLOAD
        header.csum_start = <uint16_t>(frame.offload.csum_start + shift)
        header.csum_offset = frame.offload.csum_offset
    vectors[n].iov_base = header
    vectors[n].iov_len = sizeof(virtio_net_hdr)
    n += 1
    if shift:
        vectors[n].iov_base = ethernet
        vectors[n].iov_len = ETHERNET_HEADER
        n += 1
    vectors[n].iov_base = <void *>frame.data
    vectors[n].iov_len = frame.segment_length
    n += 1
    for k in range(frame.n_more):
        vectors[n].iov_base = <void *>frame.more[k].data
        vectors[n].iov_len = frame.more[k].length
        n += 1
    memset(message, 0, sizeof(msghdr))
    message.msg_iov = vectors
    message.msg_iovlen = <size_t>n
    return n


cdef void join(
    const af_packet_t *self, const burst_t *burst, uint32_t at, coalesced_t *coalesced, outgoing_t *outgoing
) noexcept nogil:
    """Makes one message of the frames from `at` on that can go as one, if there are several."""
    cdef frame_t *whole = &coalesced.wholes[coalesced.n]
    cdef uint32_t n = coalesce(
        &burst.frames[at], burst.n_frames - at, self.ip_mode, coalesced.headers[coalesced.n],
        &coalesced.pieces[coalesced.n_pieces], whole,
    )
    if n > 1:
        outgoing.frame = whole
        outgoing.n = n
        coalesced.n += 1
        coalesced.n_pieces += n


cdef bint leave_bypass(af_packet_t *self) noexcept nogil:
    """Sends through the queue discipline from now on; returns whether that is a change.

    Around it nothing is segmented: a link whose segmentation is off (an XDP program at
    the other end does that) refuses every super-frame with ENOBUFS.
    """
    cdef int off = 0
    if not self.bypass:
        return False
    self.bypass = False
    return setsockopt(self.fd, SOL_PACKET, PACKET_QDISC_BYPASS, &off, sizeof(off)) == 0


cdef uint32_t send(
    af_packet_t *self, const outgoing_t *outgoing, mmsghdr *messages, uint32_t n, flow_t *flow
) noexcept nogil:
    """Sends n messages in order; returns how many were sent or dropped.

    It stops where there is no room, and at a super-frame of our making that is refused: its frames
    go one by one then, and so do all for a while.
    """
    cdef const frame_t *frame
    cdef uint32_t done = 0
    cdef uint32_t i
    cdef int status
    cdef int code
    cdef int reason
    while done < n:
        status = sendmmsg(self.fd, messages + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL)
        if status > 0:
            for i in range(done, done + <uint32_t>status):
                flow.out_frames += outgoing[i].n
                # As lent: each with its headers.
                flow.out_bytes += outgoing[i].frame.length
                flow.out_bytes += (outgoing[i].n - 1) * outgoing[i].frame.segment_length
            done += <uint32_t>status
            continue
        code = errno
        if code == EINTR:
            continue
        frame = outgoing[done].frame
        if code == EAGAIN:
            break
        if outgoing[done].n > 1 and code not in (ENETDOWN, ENXIO, ENODEV):
            self.bursts_apart = BURSTS_APART
            break
        if code == ENOBUFS:
            if frame.offload.gso_type != GSO_NONE and leave_bypass(self):
                continue
            break
        if code == EMSGSIZE:
            reason = DROP_TOO_BIG
        elif (code == EINVAL or code == ENOMEM) and (frame.offload.flags or frame.offload.gso_type):
            # ENOMEM is what the kernel says of a frame that it failed to segment.
            reason = DROP_BAD_OFFLOAD
        elif code in (ENETDOWN, ENXIO, ENODEV):
            reason = DROP_LINK_DOWN
        else:
            reason = DROP_SEND_ERROR
        flow.drops[reason] += outgoing[done].n
        done += 1
    return done


cdef uint32_t packet_tx_room(port_t *port) noexcept nogil:
    """The kernel tells only when it is given a frame."""
    return BURST_FRAMES


cdef uint32_t packet_tx_burst(port_t *port, burst_t *burst, uint32_t first, flow_t *flow) noexcept nogil:
    cdef af_packet_t *self = <af_packet_t *>port
    cdef outgoing_t outgoing[BURST_FRAMES]
    cdef mmsghdr messages[BURST_FRAMES]
    cdef iovec vectors[VECTORS]
    cdef virtio_net_hdr headers[BURST_FRAMES]
    cdef uint8_t ethernets[BURST_FRAMES][ETHERNET_HEADER]
    cdef coalesced_t coalesced
    cdef uint32_t at = first
    cdef uint32_t n, next_one, n_vectors, done, i
    cdef bint apart
    cdef int reason
    cdef int used
    if load_acquire32(&port.state) & (PORT_DEAD | PORT_CONNECTED) != PORT_CONNECTED:
        flow.drops[<int>DROP_LINK_DOWN] += burst.n_frames - first
        return burst.n_frames - first
    if self.bursts_apart:
        self.bursts_apart -= 1
    while at < burst.n_frames:
        apart = self.bursts_apart != 0
        n = 0
        next_one = at
        n_vectors = 0
        reason = -1
        coalesced.n = coalesced.n_pieces = 0
        while next_one < burst.n_frames:
            reason = refuse(self, &burst.frames[next_one])
            if reason >= 0:
                break
            outgoing[n].frame = &burst.frames[next_one]
            outgoing[n].n = 1
            if not apart:
                join(self, burst, next_one, &coalesced, &outgoing[n])
            used = gather(
                self, outgoing[n].frame, &headers[n], ethernets[n], &vectors[n_vectors], &messages[n].msg_hdr
            )
            if used < 0:
                reason = -1 - used
                break
            n_vectors += <uint32_t>used
            next_one += outgoing[n].n
            n += 1
        done = send(self, outgoing, messages, n, flow)
        for i in range(done):
            at += outgoing[i].n
        if done < n:
            if self.bursts_apart and not apart:
                continue
            break
        if reason >= 0:
            flow.drops[reason] += 1
            at += 1
    return at - first


cdef bint packet_arm(port_t *port) noexcept nogil:
    """Needs no arming: only what came meanwhile is looked for."""
    cdef af_packet_t *self = <af_packet_t *>port
    cdef packet_ring_t *ring = hold_ring(self)
    cdef int error
    cdef uint32_t size = sizeof(error)
    cdef bint there
    if ring != NULL:
        # A link that went down leaves an error, which receiving would clear; it would wake us for ever.
        getsockopt(ring.fd, SOL_SOCKET, SO_ERROR, &error, &size)
        exchange_ptr(<void **>&self.held, NULL)
    there = readable(port.wait_fd)
    # Frames come to the queue beside the ring when the link was down meanwhile and the kernel
    # has put the members of the fanout group into another order.
    self.strays = there and ring != NULL
    return there


cdef void packet_disarm(port_t *port) noexcept nogil:
    """Nothing was armed."""


cdef uint32_t dropped(int fd) noexcept nogil:
    """Returns how many frames a packet socket had no room for since this was asked last."""
    cdef tpacket_stats stats
    cdef uint32_t size = sizeof(stats)
    if getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) < 0:
        return 0
    return stats.tp_drops


cdef class AfPacketPort(Port):
    """A port over a bound packet socket, which it owns from then on.

    `socket` has PACKET_VNET_HDR and PACKET_AUXDATA set and does not block. `mtu_bytes`
    bounds what is sent, without Ethernet header and VLAN tag. `mac` and `peer_mac`, six
    bytes each, build the Ethernet header in IP mode. Not connected until `set_link`.
    """

    def __cinit__(
        self, socket not None, str name, *, bint ip_mode, uint32_t mtu_bytes, bytes mac, bytes peer_mac,
        bint bypass
    ):
        cdef bytes header
        self.packet = <af_packet_t *>allocate(ALLOCATED_PACKET_PORT, sizeof(af_packet_t))
        self.c = &self.packet.port
        self.socket = socket
        self.name = name
        self.packet.fd = socket.fileno()
        self.packet.ip_mode = ip_mode
        self.packet.frame_bytes_max = mtu_bytes + <uint32_t>ETHERNET_HEADER
        self.packet.bypass = bypass
        self.c.flags = PORT_QUEUES
        if ip_mode:
            if len(mac) != 6 or len(peer_mac) != 6:
                raise ValueError(f"{name}: IP mode needs two addresses of six bytes")
            header = peer_mac + mac + ETHERTYPE_IPV4.to_bytes(2, "big")
            memcpy(self.packet.ethernet, <const char *>header, ETHERNET_HEADER)
            self.c.flags |= PORT_IP
        self.c.rx_burst = packet_rx_burst
        self.c.rx_release = packet_rx_release
        self.c.tx_room = packet_tx_room
        self.c.tx_burst = packet_tx_burst
        self.c.arm = packet_arm
        self.c.disarm = packet_disarm
        self.c.wait_fd = self.packet.fd

    def set_mtu(self, uint32_t mtu_bytes):
        """Bounds what is sent from now on, without Ethernet header and VLAN tag; the link has its new MTU by now."""
        store_release32(&self.packet.frame_bytes_max, mtu_bytes + <uint32_t>ETHERNET_HEADER)

    def set_link(self, bint up):
        """Says whether frames can pass; control hears of it from the kernel."""
        if up:
            set_bits32(&self.c.state, PORT_CONNECTED)
        else:
            clear_bits32(&self.c.state, PORT_CONNECTED)

    def fail(self, error not None):
        """Declares the port dead for the reason that `error`, a DataplaneError, gives."""
        self.error = error
        store_release32(&self.c.fault, <uint32_t>error.errno)
        set_bits32(&self.c.state, PORT_DEAD)
        self.set_link(False)
        self.tell_fault()

    def read_missed(self):
        """Adds what the kernel had no room for, in the queue or the ring, to the port's count, and returns the sum.

        Reading resets the kernel's own count. Control's thread only.
        """
        if self.socket.fileno() >= 0:
            self.c.missed += dropped(self.packet.fd)
        if self.ring is not None:
            self.c.missed += dropped(self.ring.ring.fd)
        return self.c.missed

    def close(self):
        """Closes the socket. No worker may run the port any more. Safe to call twice."""
        self.packet.ring = NULL
        if self.ring is not None:
            self.ring.close()
            self.ring = None
        self.socket.close()

    @property
    def received(self):
        """How many frames came from the kernel so far."""
        return self.packet.received

    @property
    def received_large(self):
        """How many of them were super-frames of 16 KiB and more."""
        return self.packet.received_large

    def attach_ring(self, PacketRing ring not None):
        """Lends from `ring` too, which it owns from then on: first what is in the queue, then what is in the ring."""
        ring.ring.phase = RING_ENTERING
        self.ring = ring
        exchange_ptr(<void **>&self.packet.ring, &ring.ring)

    def set_wait_fd(self, int fd):
        """Makes `fd`, borrowed, what the worker waits for: readable when the queue has frames, or the ring."""
        store_release_int(&self.c.wait_fd, fd)
        if self.wire is not None:
            self.wire.refresh()

    def settle_ring(self):
        """Lends from the ring only. The kernel fills nothing else, and the queue is all but empty."""
        store_release32(&self.ring.ring.phase, RING_STEADY)

    def leave_ring(self):
        """Lends what is left in the ring, then from the queue. The kernel fills the ring no more."""
        store_release32(&self.ring.ring.phase, RING_LEAVING)

    def detach_ring(self):
        """Takes the ring, which is empty, out of use; it may be closed once `ring_held` is false. Returns it."""
        cdef PacketRing ring = self.ring
        self.read_missed()
        self.ring = None
        exchange_ptr(<void **>&self.packet.ring, NULL)
        full_fence()
        return ring

    @property
    def ring_held(self):
        """Whether the worker is using a ring just now."""
        return load_acquire_ptr(<void *const *>&self.packet.held) != NULL

    def __repr__(self):
        return f"<AfPacketPort {self.name}>"

    cdef str describe_fault(self, uint32_t fault):
        """Gives the reason that control was told."""
        return str(self.error)

    def statistics(self):
        """Returns a snapshot of the port's own counters."""
        self.read_missed()
        return Port.statistics(self)

    def __dealloc__(self):
        release(ALLOCATED_PACKET_PORT, self.packet)
