"""The loop that runs vWires, and how control tells it which."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from forwarder.dataplane.frame cimport burst_t
from forwarder.dataplane.vwire cimport vwire_t

# What to do with one vWire.
cdef enum operation_t:
    OPERATION_ADD       # into the plan
    OPERATION_REMOVE    # out of it: nothing of the vWire is touched any more
    OPERATION_REFRESH   # a port's wait_fd has changed; nothing of the old one is touched any more

cdef struct step_t:
    operation_t operation
    vwire_t *wire

# How the plan changes. Immutable once published. It stands for the plan itself, so that a
# change among ten thousand vWires costs what it changes and not what there is.
cdef struct change_t:
    uint64_t generation     # counts changes
    uint32_t n
    uint32_t capacity
    step_t *steps
    change_t *older         # control's list of changes that may be in use

cdef struct worker_t:
    # Control's, read by the worker.
    void *pending           # change_t that the worker has not seen; exchanged
    uint32_t stop
    int epoll_fd
    int wake_fd             # eventfd, written by control
    int notify_fd           # eventfd, written by the worker
    uint64_t poll_window_ns
    uint64_t stall_limit_ns
    # The worker's, read by control.
    uint64_t adopted        # generation of the last change that is in force
    uint64_t faults         # ports that were found dead
    uint64_t turns
    uint64_t busy_ns            # time of the turns that moved frames
    uint64_t sleeps
    uint64_t wakes
    uint64_t looks
    uint64_t rescues
    uint32_t ended
    # The worker's own.
    burst_t *burst
    vwire_t *active         # vWires to run each turn
    vwire_t *watched        # asleep, and still to be looked at
    uint64_t next_poll_ns   # when to ask for wake-ups though there is work
    uint64_t next_look_ns   # when the first watched vWire is due


cdef class Worker:
    cdef worker_t *c                # owned
    cdef change_t *changes          # published and possibly in use, newest first
    cdef uint64_t generation        # of the newest change
    cdef set wires                  # Vwires in the plan, kept alive
    cdef list leaving               # (generation, Vwire): kept alive until adopted
    cdef readonly str name
    cdef readonly object cpu
    cdef object thread
    cdef object __weakref__

    cdef uint64_t publish(self, operation_t operation, vwire_t *wire) except 0
    cdef void collect(self) noexcept
    cdef void shut(self) noexcept
