"""What is counted, and why frames are dropped."""

from libc.stdint cimport uint64_t

from forwarder.dataplane.measure cimport measure_t

# Why a frame that was received did not leave. Names and sentences: counters.pyx.
cdef enum drop_reason_t:
    DROP_NO_ROOM
    DROP_LINK_DOWN
    DROP_TOO_BIG
    DROP_RUNT
    DROP_BAD_DESCRIPTOR
    DROP_BAD_CHAIN
    DROP_TRUNCATED
    DROP_BAD_OFFLOAD
    DROP_GSO_UNSUPPORTED
    DROP_NOT_IP
    DROP_SEND_ERROR
    DROP_REASONS            # how many there are

# One direction of a vWire, in frames as lent by the receiving port.
# in_frames = out_frames + sum(drops), whenever its worker is between two bursts.
# Written by one worker only; read by anyone, word by word.
cdef struct flow_t:
    uint64_t in_frames
    uint64_t in_bytes
    uint64_t out_frames
    uint64_t out_bytes
    uint64_t bursts
    uint64_t drops[DROP_REASONS]

# A FlowStatistics of what `flow` holds now, and `measure`, which may be NULL.
cdef object flow_snapshot(const flow_t *flow, const measure_t *measure)
