/* Loads, stores and exchanges with a stated order, for words that two threads or two processes
 * share. Each is one access of exactly that width. */
#ifndef VWIRE_ATOMICS_H
#define VWIRE_ATOMICS_H

#include <stdint.h>

static inline uint16_t load_acquire16(const uint16_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint16_t load_relaxed16(const uint16_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void store_release16(uint16_t *word, uint16_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline void store_relaxed16(uint16_t *word, uint16_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline int load_acquire_int(const int *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void store_release_int(int *word, int value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

static inline uint32_t load_acquire32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint32_t load_relaxed32(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void store_release32(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline uint32_t set_bits32(uint32_t *word, uint32_t bits) {
    return __atomic_fetch_or(word, bits, __ATOMIC_ACQ_REL);
}
static inline uint32_t clear_bits32(uint32_t *word, uint32_t bits) {
    return __atomic_fetch_and(word, ~bits, __ATOMIC_ACQ_REL);
}

static inline uint64_t load_acquire64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint64_t load_relaxed64(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void store_release64(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void *load_acquire_ptr(void *const *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void *exchange_ptr(void **word, void *value) {
    return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
}

/* Orders our stores before our later loads, which neither acquire nor release does. */
static inline void full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#endif
