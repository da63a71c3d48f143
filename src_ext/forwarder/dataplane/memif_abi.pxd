"""memif's shared memory, and surviving its truncation; declarations of memif.h, sigbus.h and copy.h."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "memif.h" nogil:
    enum:
        MEMIF_COOKIE
        MEMIF_RING_MASK_INT
        MEMIF_DESC_NEXT
    ctypedef struct memif_desc_t:
        uint16_t flags
        uint16_t region
        uint32_t length
        uint32_t offset
        uint32_t metadata
    ctypedef struct memif_ring_t:
        uint32_t cookie
        uint16_t flags
        uint16_t head
        uint16_t tail
        memif_desc_t *desc
    # Each reads its bytes once: the other end may write them at any time.
    memif_desc_t memif_desc_read(const memif_desc_t *shared)
    memif_desc_t memif_desc_read_head(const memif_desc_t *shared)
    void memif_desc_write(memif_desc_t *shared, uint16_t flags, uint16_t region, uint32_t length, uint32_t offset)
    # Leaves the offset as it stands.
    void memif_desc_write_head(memif_desc_t *shared, uint16_t flags, uint16_t region, uint32_t length)
    void memif_desc_clear_flags(memif_desc_t *shared)

cdef extern from "sigbus.h":
    int sigbus_install()
    int64_t sigbus_watch(uint8_t *base, size_t size, uint32_t *dead)
    void sigbus_forget(int64_t number)

cdef extern from "copy.h" nogil:
    ctypedef struct copy_t:
        uint8_t *to
        const uint8_t *from_ "from"
        uint64_t length
    ctypedef void (*copy_all_fn)(const copy_t *copies, uint32_t n) noexcept nogil
    copy_all_fn copy_all_choose()
    void prefetch_read(const void *line)
    void prefetch_write(const void *line)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MADV_DONTFORK
        MADV_DONTDUMP
    void *MAP_FAILED
    void *mmap(void *address, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t size)
    int madvise(void *address, size_t size, int advice)

cdef extern from "<sys/vfs.h>" nogil:
    struct statfs:
        long f_type
    int fstatfs(int fd, statfs *found)
