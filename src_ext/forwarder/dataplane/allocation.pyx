"""Memory of the core's objects, counted by kind."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free

cdef extern from "cacheline.h" nogil:
    void *cacheline_calloc(size_t size)
    void *cacheline_alloc(size_t size)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t size)

cdef int64_t live[<int>ALLOCATIONS]

_NAMES = {
    ALLOCATED_VWIRE: "vwire",
    ALLOCATED_WORKER: "worker",
    ALLOCATED_BURST: "burst",
    ALLOCATED_CHANGE: "change",
    ALLOCATED_MEMIF_PORT: "memif port",
    ALLOCATED_MEMIF_SESSION: "memif session",
    ALLOCATED_MEMIF_MAPPING: "memif mapping",
    ALLOCATED_PACKET_PORT: "packet port",
    ALLOCATED_MEASURE: "measurements",
}


cdef void *allocate(allocation_t kind, size_t size) except NULL:
    cdef void *memory = cacheline_calloc(size)
    if memory == NULL:
        raise MemoryError(f"{size} bytes for a {_NAMES[kind]}")
    live[<int>kind] += 1
    return memory


cdef void *allocate_untouched(allocation_t kind, size_t size) except NULL:
    cdef void *memory = cacheline_alloc(size)
    if memory == NULL:
        raise MemoryError(f"{size} bytes for a {_NAMES[kind]}")
    live[<int>kind] += 1
    return memory


cdef void *allocate_pages(allocation_t kind, size_t size) except NULL:
    cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if memory == MAP_FAILED:
        raise MemoryError(f"{size} bytes for a {_NAMES[kind]}")
    live[<int>kind] += 1
    return memory


cdef void release_pages(allocation_t kind, void *memory, size_t size) noexcept:
    if memory != NULL:
        live[<int>kind] -= 1
        munmap(memory, size)


cdef void release(allocation_t kind, void *memory) noexcept:
    if memory != NULL:
        live[<int>kind] -= 1
        free(memory)


cdef void count_resource(allocation_t kind, int change) noexcept:
    live[<int>kind] += change


def allocations():
    """Returns how many objects of each kind are allocated and not freed, without the kinds that have none."""
    return {name: live[<int>kind] for kind, name in _NAMES.items() if live[<int>kind]}
