"""Driving a port from Python, without a worker: for applications at the end of a vWire, and for tests."""

import warnings

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EBADF, EINVAL, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from forwarder.dataplane.allocation cimport ALLOCATED_BURST, allocate, allocate_untouched, release
from forwarder.dataplane.atomics cimport load_acquire_int
from forwarder.dataplane.counters cimport flow_snapshot, flow_t
from forwarder.dataplane.event cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLIN,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    eventfd_read,
    eventfd_write,
)
from forwarder.dataplane.frame cimport (
    BURST_FRAMES,
    FRAME_BYTES_MAX,
    OFFLOAD_NEEDS_CSUM,
    POOL_BYTES,
    burst_t,
    frame_t,
)
from forwarder.dataplane.offload cimport gso_parse, gso_segment_length, gso_t, gso_write
from forwarder.dataplane.port cimport PORT_EDGE, Port, port_t

from forwarder.dataplane.spec import Offload
from forwarder.errors import DataplaneError


cdef object frame_bytes(const frame_t *frame):
    """Copies a frame into a bytes object."""
    cdef bytes copy = PyBytes_FromStringAndSize(NULL, frame.length)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(copy)
    cdef uint32_t k
    memcpy(to, frame.data, frame.segment_length)
    to += frame.segment_length
    for k in range(frame.n_more):
        memcpy(to, frame.more[k].data, frame.more[k].length)
        to += frame.more[k].length
    return copy


cdef class PortIO:
    """Reads and writes the frames of one port.

    `fileno` is readable when `read` may have frames, also after the port has lost its connection
    and found another; so it can be given to an event loop, level-triggered, once. A port can be
    driven by one PortIO or run by one vWire.
    """

    cdef readonly Port port
    cdef burst_t *burst
    cdef flow_t received
    cdef flow_t sent
    cdef int epoll_fd
    cdef object __weakref__

    def __cinit__(self, Port port not None):
        self.epoll_fd = -1
        self.burst = <burst_t *>allocate(ALLOCATED_BURST, sizeof(burst_t))
        self.burst.most = BURST_FRAMES
        self.burst.pool = <uint8_t *>allocate_untouched(ALLOCATED_BURST, POOL_BYTES)
        port.take(self)
        self.port = port
        port.c.registered_fd = -1
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise DataplaneError("making an epoll descriptor", errno=errno)
        self.refresh()

    def __del__(self):
        if self.epoll_fd >= 0:
            warnings.warn(f"the PortIO of {self.port!r} was never closed", ResourceWarning, source=self, stacklevel=1)

    def __dealloc__(self):
        self.shut()
        if self.burst != NULL:
            release(ALLOCATED_BURST, self.burst.pool)
        release(ALLOCATED_BURST, self.burst)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    cdef void shut(self) noexcept:
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
            self.epoll_fd = -1

    def close(self):
        """Lets go of the port, which stays open. Safe to call twice."""
        if self.epoll_fd >= 0:
            self.shut()
            self.port.c.disarm(self.port.c)
            self.port.leave(self)

    def refresh(self):
        """Watches the port's present descriptor; for the port, when it has changed."""
        cdef epoll_event event
        cdef port_t *c = self.port.c
        cdef int fd = load_acquire_int(&c.wait_fd)
        if self.epoll_fd < 0:
            return
        if c.registered_fd >= 0:
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, c.registered_fd, &event)
            c.registered_fd = -1
        if fd >= 0:
            event.events = EPOLLIN
            event.data.fd = fd
            if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event):
                raise DataplaneError(f"watching {self.port!r}", errno=errno)
            c.registered_fd = fd
            c.arm(c)

    def fileno(self):
        """Returns a descriptor that is readable when frames may have come."""
        self.check_open()
        return self.epoll_fd

    def read(self, limit=BURST_FRAMES):
        """Returns up to about `limit` frames as they would stand on a wire, without waiting.

        Unfinished frames of a kernel port are completed: a super-frame becomes its segments.
        """
        frames = []
        for frame, offload in self.read_unfinished(limit):
            if offload is None:
                frames.append(frame)
            else:
                frames.extend(finish(frame, offload, self.port.ip_mode))
        return frames

    def read_unfinished(self, limit=BURST_FRAMES):
        """Returns up to about `limit` frames, each with what is still to be done to it: an Offload or None."""
        cdef port_t *c
        cdef frame_t *frame
        cdef uint32_t n, i
        cdef uint64_t ignored, before
        self.check_open()
        c = self.port.c
        if c.flags & PORT_EDGE and c.registered_fd >= 0:
            eventfd_read(c.registered_fd, &ignored)
        frames = []
        while len(frames) < limit:
            before = self.received.in_frames
            n = c.rx_burst(c, self.burst, &self.received)
            for i in range(n):
                frame = &self.burst.frames[i]
                self.received.in_frames += 1
                self.received.in_bytes += frame.length
                self.received.out_frames += 1
                self.received.out_bytes += frame.length
                frames.append((frame_bytes(frame), frame_offload(frame)))
            c.rx_release(c, self.burst, n)
            self.port.tell_fault()
            if self.received.in_frames == before and not c.arm(c):
                return frames
        # The limit ends this, not the source: the descriptor stays readable.
        if c.flags & PORT_EDGE and c.registered_fd >= 0 and c.arm(c):
            eventfd_write(c.registered_fd, 1)
        return frames

    def write(self, frames):
        """Sends frames in order, without waiting; returns how many the port took.

        Each is a bytes-like object, or a pair of one and an Offload. A frame that was taken was
        either sent or can never be (see `statistics`); the rest found no room.
        """
        cdef port_t *c
        cdef frame_t *frame
        cdef const uint8_t[::1] view
        cdef uint32_t taken
        self.check_open()
        c = self.port.c
        taken_in_all = 0
        pending = list(frames)
        while taken_in_all < len(pending):
            views = []
            self.burst.n_frames = self.burst.n_segments = 0
            for item in pending[taken_in_all : taken_in_all + BURST_FRAMES]:
                data, offload = item if isinstance(item, tuple) else (item, None)
                view = data
                if not 0 < view.shape[0] <= FRAME_BYTES_MAX:
                    raise DataplaneError(
                        f"a frame of {view.shape[0]} bytes, not within 1..{<int>FRAME_BYTES_MAX}", errno=EINVAL
                    )
                views.append(view)
                frame = &self.burst.frames[self.burst.n_frames]
                memset(frame, 0, sizeof(frame_t))
                frame.data = &view[0]
                frame.segment_length = frame.length = <uint32_t>view.shape[0]
                if offload is not None:
                    set_offload(frame, offload)
                self.burst.n_frames += 1
            taken = c.tx_burst(c, self.burst, 0, &self.sent)
            self.sent.in_frames += taken
            for item in views[:taken]:
                self.sent.in_bytes += <uint64_t>len(item)
            taken_in_all += taken
            self.port.tell_fault()
            if taken < self.burst.n_frames:
                break
        return taken_in_all

    def statistics(self):
        """Returns what was read and what was written, as two FlowStatistics.

        What was read went out to the caller; what was written came in from the caller.
        """
        return flow_snapshot(&self.received, NULL), flow_snapshot(&self.sent, NULL)

    cdef check_open(self):
        if self.epoll_fd < 0:
            raise DataplaneError(f"the PortIO of {self.port!r} is closed", errno=EBADF)


cdef object frame_offload(const frame_t *frame):
    """Gives a frame's Offload, None for a complete one."""
    if frame.offload.gso_type == 0 and not frame.offload.flags & OFFLOAD_NEEDS_CSUM:
        return None
    return Offload(
        flags=frame.offload.flags,
        gso_type=frame.offload.gso_type,
        header_length=frame.offload.header_length,
        gso_size=frame.offload.gso_size,
        csum_start=frame.offload.csum_start,
        csum_offset=frame.offload.csum_offset,
    )


cdef set_offload(frame_t *frame, offload):
    frame.offload.flags = offload.flags
    frame.offload.gso_type = offload.gso_type
    frame.offload.header_length = offload.header_length
    frame.offload.gso_size = offload.gso_size
    frame.offload.csum_start = offload.csum_start
    frame.offload.csum_offset = offload.csum_offset


cdef list finish(bytes data, offload, bint ip_mode):
    """Turns an unfinished frame into those that would stand on a wire; none if that cannot be done."""
    cdef frame_t frame
    cdef gso_t gso
    cdef uint32_t i
    cdef bytes made
    memset(&frame, 0, sizeof(frame))
    frame.data = <const uint8_t *>PyBytes_AS_STRING(data)
    frame.segment_length = frame.length = <uint32_t>len(data)
    set_offload(&frame, offload)
    if gso_parse(&frame, ip_mode, &gso):
        return []
    frames = []
    for i in range(gso.n_segments):
        made = PyBytes_FromStringAndSize(NULL, gso_segment_length(&gso, i))
        gso_write(&frame, &gso, i, <uint8_t *>PyBytes_AS_STRING(made))
        frames.append(made)
    return frames
