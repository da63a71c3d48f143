"""Memory of the core's objects, counted by kind so that tests can see what was not freed."""

cdef enum allocation_t:
    ALLOCATED_VWIRE
    ALLOCATED_WORKER
    ALLOCATED_BURST
    ALLOCATED_CHANGE
    ALLOCATED_MEMIF_PORT
    ALLOCATED_MEMIF_SESSION
    ALLOCATED_MEMIF_MAPPING     # a region in our address space
    ALLOCATED_PACKET_PORT
    ALLOCATED_MEASURE
    ALLOCATIONS                 # how many kinds there are

# Zeroed memory on cache lines of its own. Holding the GIL.
cdef void *allocate(allocation_t kind, size_t size) except NULL
# The same without zeroing, so that pages cost nothing until they are used.
cdef void *allocate_untouched(allocation_t kind, size_t size) except NULL
# Whole pages of zeros, which cost nothing until they are used. Holding the GIL.
cdef void *allocate_pages(allocation_t kind, size_t size) except NULL
# Frees what `allocate_pages` gave; nothing for NULL. Holding the GIL.
cdef void release_pages(allocation_t kind, void *memory, size_t size) noexcept
# Frees what `allocate` gave; nothing for NULL. Holding the GIL.
cdef void release(allocation_t kind, void *memory) noexcept
# Counts a resource of another sort in (+1) or out (-1). Holding the GIL.
cdef void count_resource(allocation_t kind, int change) noexcept
