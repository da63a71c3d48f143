"""Access to words that two threads or two processes share; declarations of atomics.h."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint16_t load_acquire16(const uint16_t *word)
    uint16_t load_relaxed16(const uint16_t *word)
    void store_release16(uint16_t *word, uint16_t value)
    void store_relaxed16(uint16_t *word, uint16_t value)
    int load_acquire_int(const int *word)
    void store_release_int(int *word, int value)
    uint32_t load_acquire32(const uint32_t *word)
    uint32_t load_relaxed32(const uint32_t *word)
    void store_release32(uint32_t *word, uint32_t value)
    # Both return the word as it was.
    uint32_t set_bits32(uint32_t *word, uint32_t bits)
    uint32_t clear_bits32(uint32_t *word, uint32_t bits)
    uint64_t load_acquire64(const uint64_t *word)
    uint64_t load_relaxed64(const uint64_t *word)
    void store_release64(uint64_t *word, uint64_t value)
    void *load_acquire_ptr(void *const *word)
    # Returns what was there.
    void *exchange_ptr(void **word, void *value)
    # Orders our stores before our later loads.
    void full_fence()
