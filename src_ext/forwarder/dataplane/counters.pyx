"""The words for what is counted, and snapshots of it for Python."""

from forwarder.dataplane.atomics cimport load_relaxed64
from forwarder.dataplane.measure cimport residence_snapshot, size_snapshot

from forwarder.dataplane.statistics import FlowStatistics

# In the order of drop_reason_t: the name, and what it means.
_REASONS = (
    ("no_room", "the receiving side had no free slot, or its queue was full, for longer than frames are held"),
    ("link_down", "the receiving port was not connected"),
    ("too_big", "the frame is longer than the receiving port may send, or than any frame may be"),
    ("runt", "the frame is shorter than an Ethernet header"),
    ("bad_descriptor", "the sending peer's memif descriptor points outside its memory, or has no length"),
    ("bad_chain", "the sending peer's memif descriptors chain too many slots, or end in the middle of a frame"),
    ("truncated", "the kernel handed over only a part of the frame"),
    ("bad_offload", "the frame's checksum or segmentation request contradicts the frame"),
    ("gso_unsupported", "the frame asks for segmentation of headers that cannot be segmented soundly"),
    ("not_ip", "the frame carries no IP packet, and this side of the vWire carries only those"),
    ("send_error", "the kernel refused the frame"),
)
assert len(_REASONS) == DROP_REASONS

DROP_SENTENCES = dict(_REASONS)
"""What each drop reason means, by its name."""

_NAMES = tuple(name for name, _ in _REASONS)


def drop_name(int reason):
    """Returns the name of a drop reason, by its number."""
    if not 0 <= reason < DROP_REASONS:
        raise IndexError(f"drop reason {reason}")
    return _NAMES[reason]


cdef object flow_snapshot(const flow_t *flow, const measure_t *measure):
    """Reads one direction's counters one by one; they may move meanwhile, each only upwards."""
    cdef int k
    drops = {}
    for k in range(<int>DROP_REASONS):
        count = load_relaxed64(&flow.drops[k])
        if count:
            drops[_NAMES[k]] = count
    out_frames = load_relaxed64(&flow.out_frames)
    out_bytes = load_relaxed64(&flow.out_bytes)
    measured = {}
    if measure != NULL:
        measured["busy_ns"] = load_relaxed64(&measure.busy_ns)
        measured["residence_ns"] = residence_snapshot(measure)
        measured["burst_frames"] = size_snapshot(measure)
    return FlowStatistics(
        in_frames=load_relaxed64(&flow.in_frames),
        in_bytes=load_relaxed64(&flow.in_bytes),
        out_frames=out_frames,
        out_bytes=out_bytes,
        bursts=load_relaxed64(&flow.bursts),
        drops=drops,
        **measured,
    )
