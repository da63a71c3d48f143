"""What a port is: the verbs every port kind implements."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from forwarder.dataplane.counters cimport flow_t
from forwarder.dataplane.frame cimport burst_t

cdef enum:
    PORT_HOLDS = 1      # unreleased frames stay in the source and are lent again
    PORT_IP = 2         # frames start at the IP header, not at the Ethernet header
    PORT_EDGE = 4       # wait_fd is an eventfd: each write to it wakes, and it need not be read
    PORT_UNFENCED = 8   # the peer may miss that we armed: look again a little later
    PORT_QUEUES = 16    # frames may come from a queue of the kernel's, which takes none back

cdef enum:
    PORT_DEAD = 1       # state: broken for good; reason in `fault`
    PORT_CONNECTED = 2  # state: frames can pass

# All functions are called by the one worker that runs the port's vWire, never
# raise, never block, never allocate.
#
# rx_burst   Fills `burst` with up to BURST_FRAMES frames lent from the port's own
#            slots and returns how many. A frame that may not pass (bad descriptor,
#            truncated, ...) ends the burst; at the head of a burst it is consumed
#            and counted in `flow` (in_frames, in_bytes and its drop reason).
# rx_release Gives back the first `n` frames of the last burst. The rest is lent
#            again by the next rx_burst (PORT_HOLDS), or is gone.
# tx_room    How many frames there is room for, whatever they turn out to be. For
#            whoever receives from a queue (PORT_QUEUES): frames for which there is
#            no room are better left there. A port that is down has room for all,
#            for it drops them.
# tx_burst   Takes frames first..n_frames-1 of `burst` in order, copying or sending
#            each; returns how many it took. A frame it took was either sent
#            (out_frames, out_bytes of `flow`) or can never be sent and was dropped
#            (its reason in `flow`). It stops at the first frame for which there is
#            no room now.
# arm        Prepares to sleep: asks for a wake-up through wait_fd. Returns 1 if
#            frames are already there, and then nothing needs to be armed. May be
#            called again while armed, to look whether a wake-up was missed.
# disarm     Back to polling.
ctypedef uint32_t (*rx_burst_fn)(port_t *port, burst_t *burst, flow_t *flow) noexcept nogil
ctypedef void (*rx_release_fn)(port_t *port, burst_t *burst, uint32_t n) noexcept nogil
ctypedef uint32_t (*tx_room_fn)(port_t *port) noexcept nogil
ctypedef uint32_t (*tx_burst_fn)(port_t *port, burst_t *burst, uint32_t first, flow_t *flow) noexcept nogil
ctypedef bint (*arm_fn)(port_t *port) noexcept nogil
ctypedef void (*disarm_fn)(port_t *port) noexcept nogil

# The head of every port kind's own struct (its first member).
cdef struct port_t:
    rx_burst_fn rx_burst
    rx_release_fn rx_release
    tx_room_fn tx_room
    tx_burst_fn tx_burst
    arm_fn arm
    disarm_fn disarm
    uint32_t flags          # PORT_HOLDS, ...; fixed once open, but PORT_HOLDS may change with each rx_burst
    uint32_t state          # PORT_DEAD, PORT_CONNECTED; atomic
    uint32_t fault          # errno or a port kind's own code, why it is dead; atomic
    int wait_fd             # readable when frames may have come; -1 for none; atomic
    int registered_fd       # the runner's: wait_fd as it is in its epoll set; -1 for not at all
    bint reported           # the runner's: it has told control that the port is dead
    uint64_t kicks          # wake-ups sent to the peer
    uint64_t polls          # rx_burst calls
    uint64_t missed         # control's: frames that were lost before we saw them (kernel queue full, memif gone)


cdef class Port:
    """Owns a port's struct. Port kinds derive from it and set `c` in __cinit__."""

    cdef port_t *c
    cdef readonly object wire       # the Vwire or PortIO that runs it, or None
    cdef public object on_fault     # called with the fault in words, or None
    cdef bint told                  # on_fault has been called for the present fault
    cdef object __weakref__

    cdef str describe_fault(self, uint32_t fault)
