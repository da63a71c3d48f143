"""One vWire: receive a burst from A, give it to B; then B to A."""

from forwarder.dataplane.allocation cimport (
    ALLOCATED_MEASURE,
    ALLOCATED_VWIRE,
    allocate,
    allocate_pages,
    release,
    release_pages,
)
from forwarder.dataplane.atomics cimport load_relaxed64
from forwarder.dataplane.counters cimport DROP_NO_ROOM, flow_snapshot, flow_t
from forwarder.dataplane.event cimport now_ns
from forwarder.dataplane.frame cimport BURST_FRAMES, burst_t
from forwarder.dataplane.measure cimport measure_residence, measure_size, measure_t
from forwarder.dataplane.port cimport PORT_HOLDS, PORT_QUEUES, Port, port_t

from forwarder.dataplane.statistics import VwireStatistics


cdef inline bint given_up(const lane_t *lane, uint64_t now, uint64_t stall_limit_ns) noexcept nogil:
    """Whether the sink has had no room for longer than frames wait."""
    return lane.stalled_since_ns != 0 and now - lane.stalled_since_ns >= stall_limit_ns


cdef uint32_t lane_turn(lane_t *lane, burst_t *burst, uint64_t now, uint64_t stall_limit_ns) noexcept nogil:
    """Moves one burst one way.

    What the sink did not take stays with a source that holds, and counts as received only once it
    has left the source. From a source that cannot hold, only as much is taken as the sink has room
    for; the rest waits in the kernel's queue, equally long.
    """
    cdef port_t *source = lane.source
    cdef flow_t *flow = &lane.flow
    cdef uint64_t received_before = flow.in_frames
    cdef uint64_t n_bytes = 0
    cdef uint64_t done
    cdef uint32_t n, taken, gone, i
    cdef uint32_t did = 0
    cdef bint queues = (source.flags & PORT_QUEUES) != 0
    if queues:
        burst.most = BURST_FRAMES if given_up(lane, now, stall_limit_ns) else lane.sink.tx_room(lane.sink)
    n = source.rx_burst(source, burst, flow)
    if n == 0:
        if queues and burst.waiting:
            if lane.stalled_since_ns == 0:
                lane.stalled_since_ns = now
            did = TURN_STALLED
        elif not given_up(lane, now, stall_limit_ns):
            lane.stalled_since_ns = 0
        # A sink that was given up stays so until it takes frames again.
        return did | TURN_WORKED if flow.in_frames != received_before else did
    taken = lane.sink.tx_burst(lane.sink, burst, 0, flow)
    gone = n
    if taken == n:
        lane.stalled_since_ns = 0
    elif not source.flags & PORT_HOLDS:
        if taken:
            lane.stalled_since_ns = 0
    else:
        if taken or lane.stalled_since_ns == 0:
            lane.stalled_since_ns = now
        if now - lane.stalled_since_ns < stall_limit_ns:
            gone = taken
            did = TURN_STALLED
    for i in range(gone):
        n_bytes += burst.frames[i].length
    flow.in_frames += gone
    flow.in_bytes += n_bytes
    flow.drops[<int>DROP_NO_ROOM] += gone - taken
    source.rx_release(source, burst, gone)
    if gone:
        flow.bursts += 1
        measure_size(lane.measure, gone)
        if burst.timed:
            done = now_ns()
            measure_residence(lane.measure, done - burst.now, flow.bursts)
            burst.now = done
    if flow.in_frames != received_before:
        did |= TURN_WORKED
    return did


cdef uint32_t vwire_turn(vwire_t *wire, burst_t *burst, uint64_t now, uint64_t stall_limit_ns) noexcept nogil:
    cdef uint32_t did = lane_turn(&wire.a_to_b, burst, now, stall_limit_ns)
    return did | lane_turn(&wire.b_to_a, burst, now, stall_limit_ns)


cdef class Vwire:
    """The virtual wire between two ports. A worker runs it while it is in that worker's plan."""

    def __cinit__(self, Port a not None, Port b not None, str name=""):
        self.c = <vwire_t *>allocate(ALLOCATED_VWIRE, sizeof(vwire_t))
        self.a = a
        self.b = b
        self.name = name
        self.c.a_to_b.source = self.c.b_to_a.sink = a.c
        self.c.a_to_b.sink = self.c.b_to_a.source = b.c
        self.c.a_to_b.measure = <measure_t *>allocate_pages(ALLOCATED_MEASURE, 2 * sizeof(measure_t))
        self.c.b_to_a.measure = self.c.a_to_b.measure + 1

    def __dealloc__(self):
        if self.c != NULL:
            release_pages(ALLOCATED_MEASURE, self.c.a_to_b.measure, 2 * sizeof(measure_t))
        release(ALLOCATED_VWIRE, self.c)

    def __repr__(self):
        return f"<Vwire {self.name or hex(id(self))}>"

    def statistics(self):
        """Returns a snapshot of both directions' counters, taken while frames may flow."""
        return VwireStatistics(
            name=self.name,
            a_to_b=flow_snapshot(&self.c.a_to_b.flow, self.c.a_to_b.measure),
            b_to_a=flow_snapshot(&self.c.b_to_a.flow, self.c.b_to_a.measure),
        )

    @property
    def busy_ns(self):
        """The workers' time for both directions so far."""
        return load_relaxed64(&self.c.a_to_b.measure.busy_ns) + load_relaxed64(&self.c.b_to_a.measure.busy_ns)

    def refresh(self):
        """Tells the worker that a port's state changed.

        Returns the generation of the plan from which on nothing of the former state is touched
        any more; None if no worker runs the vWire.
        """
        return None if self.worker is None else self.worker.refresh(self)
