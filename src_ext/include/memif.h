/* Shared memory of memif, protocol 2.0: rings and descriptors as both ends see them.
 *
 * All numbers are in host byte order, which is little-endian wherever memif runs.
 * Facts from memif.h of FD.io VPP. The client ("slave" there) owns the memory and writes
 * `head` in both directions; the server ("master") writes `tail` in both.
 */
#ifndef VWIRE_MEMIF_H
#define VWIRE_MEMIF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "memif is little-endian");

#define MEMIF_COOKIE 0x03E31F20u
#define MEMIF_RING_MASK_INT 1u /* ring flags, written by the receiver of its frames: do not wake me */
#define MEMIF_DESC_NEXT 1u     /* descriptor flags: the frame goes on in the next slot */

typedef struct __attribute__((aligned(16))) {
    uint16_t flags;
    uint16_t region;
    uint32_t length;
    uint32_t offset; /* from the start of the region */
    uint32_t metadata; /* unused: written 0, not read */
} memif_desc_t;

typedef struct __attribute__((aligned(16))) {
    uint32_t cookie;
    uint16_t flags;
    uint16_t head;
    uint8_t pad1[56];
    uint16_t tail;
    uint8_t pad2[62];
    memif_desc_t desc[];
} memif_ring_t;

_Static_assert(sizeof(memif_desc_t) == 16, "descriptor");
_Static_assert(sizeof(memif_ring_t) == 128, "ring header");
_Static_assert(offsetof(memif_ring_t, flags) == 4 && offsetof(memif_ring_t, head) == 6, "ring");
_Static_assert(offsetof(memif_ring_t, tail) == 64 && offsetof(memif_ring_t, desc) == 128, "ring");

/* Copies a descriptor out of shared memory, reading each byte once: the other end may write it
 * at any time, so checks and use must see the same numbers. */
static inline memif_desc_t memif_desc_read(const memif_desc_t *shared) {
    const volatile uint64_t *words = (const volatile uint64_t *)shared;
    uint64_t pair[2] = {words[0], words[1]};
    memif_desc_t copy;
    memcpy(&copy, pair, sizeof copy);
    return copy;
}

/* Flags, region and length only: what a client takes from a slot that it posted itself. */
static inline memif_desc_t memif_desc_read_head(const memif_desc_t *shared) {
    uint64_t pair[2] = {*(const volatile uint64_t *)shared, 0};
    memif_desc_t copy;
    memcpy(&copy, pair, sizeof copy);
    return copy;
}

static inline void memif_desc_write(memif_desc_t *shared, uint16_t flags, uint16_t region, uint32_t length,
                                    uint32_t offset) {
    volatile uint64_t *words = (volatile uint64_t *)shared;
    words[0] = (uint64_t)length << 32 | (uint32_t)region << 16 | flags;
    words[1] = offset;
}

/* Leaves the offset as the client posted it. */
static inline void memif_desc_write_head(memif_desc_t *shared, uint16_t flags, uint16_t region,
                                         uint32_t length) {
    *(volatile uint64_t *)shared = (uint64_t)length << 32 | (uint32_t)region << 16 | flags;
}

static inline void memif_desc_clear_flags(memif_desc_t *shared) { *(volatile uint16_t *)&shared->flags = 0; }

#endif
