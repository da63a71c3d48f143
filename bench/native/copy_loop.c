/* The ceiling of what a forwarder between two memif clients can do: copy_loop CPU SOCKET SOCKET
 *
 * Server on both sockets; copies each frame once from the sender's slot to the receiver's, with
 * the bounds checks that memory shared with a stranger needs, and does nothing else: no counters
 * by reason, no idle policy, no chains, no reconnection.
 */
#include "memif_peer.h"

enum { BURST = 64 };

typedef uint8_t block_t __attribute__((vector_size(32), aligned(1)));

static inline void copy(uint8_t *to, const uint8_t *from, uint32_t n)
{
    if (n >= 32) {
        uint32_t i = 0;
        for (; i + 64 <= n; i += 64) {
            block_t a = *(const block_t *)(from + i), b = *(const block_t *)(from + i + 32);
            *(block_t *)(to + i) = a;
            *(block_t *)(to + i + 32) = b;
        }
        if (i + 32 <= n) *(block_t *)(to + i) = *(const block_t *)(from + i);
        if (n & 31) *(block_t *)(to + n - 32) = *(const block_t *)(from + n - 32);
    } else {
        memcpy(to, from, n);
    }
}

static inline descriptor_t read_once(const descriptor_t *slot)
{
    uint64_t words[2] = { __atomic_load_n((const uint64_t *)slot, __ATOMIC_RELAXED),
                          __atomic_load_n((const uint64_t *)slot + 1, __ATOMIC_RELAXED) };
    descriptor_t copied;
    memcpy(&copied, words, sizeof copied);
    return copied;
}

static inline uint8_t *bounded(const peer_t *peer, descriptor_t slot, uint32_t length)
{
    if (slot.region >= peer->n_regions) return NULL;
    const region_t *region = &peer->regions[slot.region];
    return (uint64_t)slot.offset + length <= region->bytes ? region->base + slot.offset : NULL;
}

/* Moves up to a burst from `in` to `out`. */
static void forward(peer_t *in, peer_t *out)
{
    uint16_t ready = (uint16_t)(load_acquire(&in->s2m->head) - in->s2m_at);
    uint16_t room = (uint16_t)(load_acquire(&out->m2s->head) - out->m2s_at);
    uint16_t n = ready < room ? ready : room, in_mask = (uint16_t)(in->size - 1), out_mask = (uint16_t)(out->size - 1);
    if (n == 0) return;
    if (n > BURST) n = BURST;
    uint16_t sent = 0;
    for (uint16_t i = 0; i < n; i++) {
        descriptor_t source = read_once(&in->s2m->slots[(in->s2m_at + i) & in_mask]);
        descriptor_t *slot = &out->m2s->slots[(out->m2s_at + sent) & out_mask];
        descriptor_t target = read_once(slot);
        const uint8_t *from = bounded(in, source, source.length);
        uint8_t *to = bounded(out, target, source.length);
        if (!from || !to || source.length > target.length) continue;
        copy(to, from, source.length);
        slot->flags = 0;
        slot->length = source.length;
        sent++;
    }
    out->m2s_at = (uint16_t)(out->m2s_at + sent);
    store_release(&out->m2s->tail, out->m2s_at);
    in->s2m_at = (uint16_t)(in->s2m_at + n);
    store_release(&in->s2m->tail, in->s2m_at);
    kick(out->m2s, out->m2s_event);
}

int main(int argc, char **argv)
{
    if (argc != 4) { fprintf(stderr, "usage: copy_loop CPU SOCKET SOCKET\n"); return 2; }
    pin(atoi(argv[1]));
    int listeners[2] = { peer_listen(argv[2]), peer_listen(argv[3]) };
    peer_t *a = peer_accept(listeners[0], 1), *b = peer_accept(listeners[1], 1);
    for (uint32_t turn = 0;; turn++) {
        forward(a, b);
        forward(b, a);
        if ((turn & 0xffff) == 0) {
            struct pollfd ends[2] = { { a->control, POLLIN, 0 }, { b->control, POLLIN, 0 } };
            if (poll(ends, 2, 0) > 0) return 0; /* the generator has gone */
        }
    }
}
