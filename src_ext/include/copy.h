/* Copies of frames from slot to slot: many small blocks of known, exact length.
 *
 * Blocks never overlap one another. Not a byte beyond a block's end is written: the next bytes of
 * the slot may hold another receiver's frame.
 */
#ifndef VWIRE_COPY_H
#define VWIRE_COPY_H

#include <stdint.h>
#include <string.h>

typedef struct {
    uint8_t *to;
    const uint8_t *from;
    uint64_t length;
} copy_t;

/* Hints: this line is read soon; this line is written soon, so fetch it for us alone. The compiler's
 * builtin has no such hint for writing on a baseline x86-64, where the instruction is a no-op at worst. */
static inline void prefetch_read(const void *line) { __builtin_prefetch(line, 0, 3); }
static inline void prefetch_write(const void *line) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1, 3);
#endif
}

typedef uint8_t block32_t __attribute__((vector_size(32), aligned(1), may_alias));

/* n bytes, from one to two blocks of `blocks` * 32, as moves that overlap in the middle. All loads come
 * before the first store, so that a line under way does not keep the next one from being asked for. */
#define COPY_BLOCKS(blocks)                                                        \
    do {                                                                           \
        block32_t start[blocks], end[blocks];                                      \
        for (int i = 0; i < (blocks); i++) {                                       \
            start[i] = *(const block32_t *)(from + 32 * i);                        \
            end[i] = *(const block32_t *)(from + n - 32 * (i + 1));                \
        }                                                                          \
        for (int i = 0; i < (blocks); i++) {                                       \
            *(block32_t *)(to + 32 * i) = start[i];                                \
            *(block32_t *)(to + n - 32 * (i + 1)) = end[i];                        \
        }                                                                          \
    } while (0)

/* Up to 256 bytes. */
__attribute__((always_inline)) static inline void copy_small(uint8_t *to, const uint8_t *from, uint64_t n) {
    if (n > 128) {
        COPY_BLOCKS(4);
    } else if (n > 64) {
        COPY_BLOCKS(2);
    } else if (n >= 32) {
        COPY_BLOCKS(1);
    } else if (n >= 16) {
        uint8_t start[16], end[16];
        memcpy(start, from, 16);
        memcpy(end, from + n - 16, 16);
        memcpy(to, start, 16);
        memcpy(to + n - 16, end, 16);
    } else if (n >= 8) {
        uint64_t start, end;
        memcpy(&start, from, 8);
        memcpy(&end, from + n - 8, 8);
        memcpy(to, &start, 8);
        memcpy(to + n - 8, &end, 8);
    } else if (n >= 4) {
        uint32_t start, end;
        memcpy(&start, from, 4);
        memcpy(&end, from + n - 4, 4);
        memcpy(to, &start, 4);
        memcpy(to + n - 4, &end, 4);
    } else if (n) {
        uint8_t start = from[0], middle = from[n / 2], end = from[n - 1];
        to[0] = start;
        to[n / 2] = middle;
        to[n - 1] = end;
    }
}

__attribute__((always_inline)) static inline void copy_each(const copy_t *copies, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (copies[i].length <= 256)
            copy_small(copies[i].to, copies[i].from, copies[i].length);
        else
            memcpy(copies[i].to, copies[i].from, copies[i].length);
    }
}

static void copy_all_baseline(const copy_t *copies, uint32_t n) { copy_each(copies, n); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void copy_all_avx2(const copy_t *copies, uint32_t n) { copy_each(copies, n); }
#endif

typedef void (*copy_all_fn)(const copy_t *copies, uint32_t n);

/* The best of the above for this CPU. */
static inline copy_all_fn copy_all_choose(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        return copy_all_avx2;
#endif
    return copy_all_baseline;
}

#endif
