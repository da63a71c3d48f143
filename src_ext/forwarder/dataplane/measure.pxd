"""What is measured of one direction of a vWire: how long frames stay with us, and in what groups they come.

Residence is from the poll that found a burst to its publication, in nanoseconds, in buckets of an
eighth of an octave. Reading the clock costs as much as forwarding several frames, so a worker under
load reads it in one turn of TIMED_TURNS, and what it reads there stands for the bursts since.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    int __builtin_clz(unsigned int word) nogil
    int __builtin_clzll(unsigned long long word) nogil

cdef enum:
    TIMED_TURNS = 8
    RESIDENCE_FLOOR = 6         # log2 of the nanoseconds at which the buckets start
    RESIDENCE_OCTAVES = 28      # up to 17 seconds
    RESIDENCE_BUCKETS = 224     # eight for each octave
    SIZE_BUCKETS = 8            # frames in a burst by their log2: 1, 2..3, 4..7, ..., 64..127, 128

# Written by the worker only; read by anyone, word by word. Two of them fill a page,
# which is touched with the first burst.
cdef struct measure_t:
    uint64_t bursts             # that `residence` stands for
    uint64_t busy_ns            # the worker's time for them
    uint64_t residence[RESIDENCE_BUCKETS]
    uint64_t sizes[SIZE_BUCKETS]


cdef inline void measure_size(measure_t *self, uint32_t n_frames) noexcept nogil:
    """Counts a burst by its frames, at least one."""
    self.sizes[31 - __builtin_clz(n_frames)] += 1


cdef inline void measure_residence(measure_t *self, uint64_t ns, uint64_t bursts) noexcept nogil:
    """Counts how long a burst stayed; `bursts` is how many there are now."""
    cdef uint64_t stands_for = bursts - self.bursts
    cdef uint64_t floored = ns | (1 << RESIDENCE_FLOOR)
    cdef uint32_t octave = 63 - <uint32_t>__builtin_clzll(floored)
    cdef uint32_t bucket = (octave - RESIDENCE_FLOOR) * 8 + ((floored >> (octave - 3)) & 7)
    if bucket >= RESIDENCE_BUCKETS:
        bucket = RESIDENCE_BUCKETS - 1
    self.residence[bucket] += stands_for
    self.busy_ns += ns * stands_for
    self.bursts = bursts


# Both histograms as Histogram objects.
cdef object residence_snapshot(const measure_t *self)
cdef object size_snapshot(const measure_t *self)
