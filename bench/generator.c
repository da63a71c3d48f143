/* Source and sink on one CPU, for a memif forwarder on another: generator CPU FORWARDER_CPU LOG2_RING
 *
 * It writes every byte of what it sends and reads every byte of what arrives, so that the payload
 * really crosses between the CPUs; it does as little else as it can, so that the forwarder and not
 * the generator is what is measured.
 *
 * Commands on standard input, one answer line each:
 *   open NAME SOCKET_A SOCKET_B          connects as memif client to both sockets of a forwarder
 *   probe                                round trip of one cache line between the two CPUs, in ns
 *   slice NAME PID BYTES WARM_MS RUN_MS  sends on A, counts what arrives on B; PID's CPU time
 * It ends at end of input.
 */
#include "memif_peer.h"

#include <pthread.h>

enum { BURST = 64, TARGETS = 8, PROBE_ROUNDS = 400, PROBE_SAMPLES = 31 };

typedef uint64_t block_t __attribute__((vector_size(32), aligned(1)));

typedef struct {
    char name[32];
    peer_t *a, *b;
} target_t;

static target_t targets[TARGETS];
static unsigned n_targets;
static int forwarder_cpu;
static volatile uint64_t sink_sum; /* keeps the compiler from skipping the reads */

static inline void fill(uint8_t *to, uint32_t n, uint64_t seed)
{
    block_t pattern = { seed, seed + 1, seed + 2, seed + 3 };
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32) *(block_t *)(to + i) = pattern;
    if (i < n) *(block_t *)(to + n - 32) = pattern;
}

static inline block_t absorb(const uint8_t *from, uint32_t n, block_t sum)
{
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32) sum ^= *(const block_t *)(from + i);
    if (i < n) sum ^= *(const block_t *)(from + n - 32);
    return sum;
}

static uint32_t produce(peer_t *peer, uint32_t bytes)
{
    ring_t *ring = peer->s2m;
    uint32_t mask = peer->size - 1;
    uint32_t room = peer->size - (uint16_t)(peer->s2m_at - load_acquire(&ring->tail));
    uint32_t n = room < BURST ? room : BURST;
    if (n == 0) return 0;
    uint8_t *base = peer->regions[0].base;
    for (uint32_t i = 0; i < n; i++) {
        descriptor_t *slot = &ring->slots[(peer->s2m_at + i) & mask];
        fill(base + slot->offset, bytes, peer->s2m_at + i);
        slot->flags = 0;
        slot->length = bytes;
    }
    peer->s2m_at = (uint16_t)(peer->s2m_at + n);
    store_release(&ring->head, peer->s2m_at);
    kick(ring, peer->s2m_event);
    return n;
}

static uint32_t consume(peer_t *peer, uint64_t *bytes, block_t *sum)
{
    ring_t *ring = peer->m2s;
    uint32_t mask = peer->size - 1;
    uint32_t n = (uint16_t)(load_acquire(&ring->tail) - peer->m2s_at);
    if (n == 0) return 0;
    if (n > BURST) n = BURST;
    uint8_t *base = peer->regions[0].base;
    block_t total = *sum;
    for (uint32_t i = 0; i < n; i++) {
        descriptor_t *slot = &ring->slots[(peer->m2s_at + i) & mask];
        uint32_t length = slot->length;
        total = absorb(base + slot->offset, length, total);
        *bytes += length;
        slot->length = BUFFER_BYTES;
        slot->flags = 0;
    }
    *sum = total;
    peer->m2s_at = (uint16_t)(peer->m2s_at + n);
    store_release(&ring->head, (uint16_t)(peer->m2s_at + peer->size));
    return n;
}

/* Sends and receives for a time; returns the frames that arrived. */
static uint64_t run(target_t *target, uint32_t frame_bytes, uint64_t duration_ns, uint64_t *bytes, uint64_t *sent)
{
    uint64_t end = now_ns(CLOCK_MONOTONIC) + duration_ns, arrived = 0;
    block_t sum = { 0 };
    do
        for (int i = 0; i < 64; i++) {
            *sent += produce(target->a, frame_bytes);
            arrived += consume(target->b, bytes, &sum);
        }
    while (now_ns(CLOCK_MONOTONIC) < end);
    sink_sum ^= sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    return arrived;
}

static void slice(const char *name, pid_t pid, uint32_t frame_bytes, unsigned warm_ms, unsigned run_ms)
{
    target_t *target = NULL;
    for (unsigned i = 0; i < n_targets; i++)
        if (!strcmp(targets[i].name, name)) target = &targets[i];
    clockid_t clock;
    if (!target || frame_bytes < 32 || frame_bytes > BUFFER_BYTES || (errno = clock_getcpuclockid(pid, &clock)))
        die("slice %s %d %u", name, pid, frame_bytes);
    uint64_t bytes = 0, sent = 0;
    run(target, frame_bytes, warm_ms * 1000000ull, &bytes, &sent);
    bytes = sent = 0;
    uint64_t wall = now_ns(CLOCK_MONOTONIC), own = now_ns(CLOCK_THREAD_CPUTIME_ID), peer = now_ns(clock);
    uint64_t frames = run(target, frame_bytes, run_ms * 1000000ull, &bytes, &sent);
    wall = now_ns(CLOCK_MONOTONIC) - wall;
    own = now_ns(CLOCK_THREAD_CPUTIME_ID) - own;
    peer = now_ns(clock) - peer;
    printf("slice %lu %lu %lu %lu %lu %lu\n", frames, bytes, sent, wall, own, peer);
}

static uint32_t turn __attribute__((aligned(128)));

static void *answer(void *unused)
{
    (void)unused;
    pin(forwarder_cpu);
    for (uint32_t i = 1; i <= 2 * PROBE_ROUNDS * PROBE_SAMPLES; i += 2) {
        while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != i) ;
        __atomic_store_n(&turn, i + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void probe(void)
{
    pthread_t thread;
    double samples[PROBE_SAMPLES];
    turn = 0;
    if ((errno = pthread_create(&thread, NULL, answer, NULL))) die("starting the probe's thread");
    uint32_t i = 1;
    for (int s = 0; s < PROBE_SAMPLES; s++) {
        uint64_t start = now_ns(CLOCK_MONOTONIC);
        for (int r = 0; r < PROBE_ROUNDS; r++, i += 2) {
            __atomic_store_n(&turn, i, __ATOMIC_RELEASE);
            while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != i + 1) ;
        }
        samples[s] = (double)(now_ns(CLOCK_MONOTONIC) - start) / PROBE_ROUNDS;
    }
    pthread_join(thread, NULL);
    qsort(samples, PROBE_SAMPLES, sizeof *samples, ascending);
    printf("probe %.1f\n", samples[PROBE_SAMPLES / 2]);
}

int main(int argc, char **argv)
{
    if (argc != 4) { fprintf(stderr, "usage: generator CPU FORWARDER_CPU LOG2_RING\n"); return 2; }
    pin(atoi(argv[1]));
    forwarder_cpu = atoi(argv[2]);
    unsigned log2_ring = (unsigned)atoi(argv[3]), bytes, warm_ms, run_ms;
    char line[512], name[32], a[200], b[200];
    int pid;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %31s %199s %199s", name, a, b) == 3 && n_targets < TARGETS) {
            target_t *target = &targets[n_targets++];
            strcpy(target->name, name);
            target->a = peer_connect(a, 0, log2_ring, 1);
            target->b = peer_connect(b, 0, log2_ring, 1);
            puts("open");
        } else if (!strcmp(line, "probe\n")) {
            probe();
        } else if (sscanf(line, "slice %31s %d %u %u %u", name, &pid, &bytes, &warm_ms, &run_ms) == 5) {
            slice(name, pid, bytes, warm_ms, run_ms);
        } else {
            errno = EINVAL;
            die("command %s", line);
        }
        fflush(stdout);
    }
    return 0;
}
