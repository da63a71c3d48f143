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

/* Up to 256 bytes as overlapping moves; the compiler turns each fixed-size memcpy into the widest
 * vector moves its function's target has. */
__attribute__((always_inline)) static inline void copy_small(uint8_t *to, const uint8_t *from, uint64_t n) {
    if (n > 128) {
        uint8_t middle[128], end[128];
        memcpy(middle, from, 128);
        memcpy(end, from + n - 128, 128);
        memcpy(to, middle, 128);
        memcpy(to + n - 128, end, 128);
    } else if (n > 64) {
        uint8_t start[64], end[64];
        memcpy(start, from, 64);
        memcpy(end, from + n - 64, 64);
        memcpy(to, start, 64);
        memcpy(to + n - 64, end, 64);
    } else if (n >= 32) {
        uint8_t start[32], end[32];
        memcpy(start, from, 32);
        memcpy(end, from + n - 32, 32);
        memcpy(to, start, 32);
        memcpy(to + n - 32, end, 32);
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
