/* Memory aligned so that no two owners share a cache line, nor the pair of lines that the adjacent
 * line prefetcher fetches together. */
#ifndef VWIRE_CACHELINE_H
#define VWIRE_CACHELINE_H

#include <stdlib.h>
#include <string.h>

#define CACHELINE_PAIR 128

/* NULL without memory. Freed with free(). */
static inline void *cacheline_alloc(size_t size) {
    size_t rounded = (size + CACHELINE_PAIR - 1) / CACHELINE_PAIR * CACHELINE_PAIR;
    return aligned_alloc(CACHELINE_PAIR, rounded ? rounded : CACHELINE_PAIR);
}

/* The same, zeroed. */
static inline void *cacheline_calloc(size_t size) {
    void *memory = cacheline_alloc(size);
    if (memory)
        memset(memory, 0, size);
    return memory;
}

#endif
