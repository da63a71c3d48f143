"""One vWire: two ports, a burst from each to the other."""

from libc.stdint cimport uint32_t, uint64_t

from forwarder.dataplane.counters cimport flow_t
from forwarder.dataplane.frame cimport burst_t
from forwarder.dataplane.measure cimport measure_t
from forwarder.dataplane.port cimport Port, port_t

# What a turn did.
cdef enum:
    TURN_WORKED = 1     # frames moved, or were dropped
    TURN_STALLED = 2    # frames wait for room on the other side

# One direction. Written by the worker only.
cdef struct lane_t:
    port_t *source              # borrowed from Vwire.a or .b
    port_t *sink
    uint64_t stalled_since_ns   # when the sink stopped taking frames that the source holds; 0: it takes them
    flow_t flow
    measure_t *measure          # owned by the Vwire, both directions' in one piece

cdef struct vwire_t:
    lane_t a_to_b
    lane_t b_to_a
    # The worker's: where the wire stands in its lists.
    uint64_t last_work_ns
    uint64_t due_ns             # asleep and watched: when to look again whether a wake-up was missed
    vwire_t *previous
    vwire_t *next
    uint32_t standing           # AWAY, ACTIVE, ASLEEP
    uint32_t looks_left         # asleep and watched: how often to look again

# Moves one burst each way. Frames that a source holds wait for room until the sink has
# taken none for `stall_limit_ns`; then, and from other sources at once, they are dropped.
cdef uint32_t vwire_turn(vwire_t *wire, burst_t *burst, uint64_t now, uint64_t stall_limit_ns) noexcept nogil


cdef class Vwire:
    cdef vwire_t *c                 # owned
    cdef readonly str name
    cdef readonly Port a
    cdef readonly Port b
    cdef public object worker       # the Worker whose plan it is in, or None
    cdef object __weakref__
