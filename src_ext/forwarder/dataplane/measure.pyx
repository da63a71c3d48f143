"""Snapshots of what is measured, for Python."""

from forwarder.dataplane.atomics cimport load_relaxed64
from forwarder.dataplane.frame cimport BURST_FRAMES

from forwarder.dataplane.statistics import Histogram


cdef object residence_snapshot(const measure_t *self):
    cdef uint32_t bucket
    cdef uint64_t count
    counts = {}
    for bucket in range(<uint32_t>RESIDENCE_BUCKETS):
        count = load_relaxed64(&self.residence[bucket])
        if count:
            # The first value of the next bucket, less one.
            counts[((bucket % 8 + 9) << (bucket // 8 + RESIDENCE_FLOOR - 3)) - 1] = count
    return Histogram(counts)


cdef object size_snapshot(const measure_t *self):
    cdef uint32_t bucket
    cdef uint64_t count
    counts = {}
    for bucket in range(<uint32_t>SIZE_BUCKETS):
        count = load_relaxed64(&self.sizes[bucket])
        if count:
            counts[min((2 << bucket) - 1, <int>BURST_FRAMES)] = count
    return Histogram(counts)
