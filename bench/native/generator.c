/* Source and sink on one CPU, for a memif forwarder on another: generator CPU FORWARDER_CPU LOG2_RING
 *
 * It writes every byte of what it sends and reads every byte of what arrives, so that the payload
 * really crosses between the CPUs; it does as little else as it can, so that the forwarder and not
 * the generator is what is measured.
 *
 * Commands on standard input, one answer line each:
 *   open NAME SOCKET_A SOCKET_B               connects as memif client to both sockets of a forwarder;
 *                                             a further vWire of it when the name is known
 *   through NAME                              waits until frames come through all its vWires
 *   probe                                     round trip of one cache line between the two CPUs, in ns
 *   slice NAME PID BYTES WAYS WARM_MS RUN_MS  sends on A, or on both; counts what arrives; PID's CPU time
 *   latency NAME PID BYTES WARM_MS RUN_MS     one frame in flight: p50 and p99
 *   gap NAME BYTES RUN_MS                     full load one way: frames lost, longest silence
 * It ends at end of input.
 */
#include "memif_peer.h"

#include <pthread.h>

enum { BURST = 64, TARGETS = 8, PAIRS = 16, PROBE_ROUNDS = 400, PROBE_SAMPLES = 31, SAMPLES = 1 << 20, LONGEST_PASS_NS = 5000 };

typedef uint64_t block_t __attribute__((vector_size(32), aligned(1)));

/* The two ends of a vWire, and what went over it while gaps were looked for. */
typedef struct {
    peer_t *a, *b;
    uint64_t sent, arrived;
} pair_t;

/* A forwarder: one vWire of it, or several that are used in turn. */
typedef struct {
    char name[32];
    unsigned n;
    pair_t pairs[PAIRS];
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

static inline uint32_t produce_some(peer_t *peer, uint32_t bytes, uint32_t most)
{
    ring_t *ring = peer->s2m;
    uint32_t mask = peer->size - 1;
    uint32_t room = peer->size - (uint16_t)(peer->s2m_at - load_acquire(&ring->tail));
    uint32_t n = room < most ? room : most;
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

static uint32_t produce(peer_t *peer, uint32_t bytes) { return produce_some(peer, bytes, BURST); }

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

/* Sends and receives for a time, on all pairs of a target; returns the frames that arrived. */
static uint64_t run(target_t *target, unsigned ways, uint32_t frame_bytes, uint64_t duration_ns, uint64_t *bytes)
{
    uint64_t end = now_ns(CLOCK_MONOTONIC) + duration_ns, arrived = 0;
    block_t sum = { 0 };
    do
        for (unsigned i = 0; i < 64;)
            for (unsigned k = 0; k < target->n; k++, i++) {
                pair_t *pair = &target->pairs[k];
                produce(pair->a, frame_bytes);
                arrived += consume(pair->b, bytes, &sum);
                if (ways == 2) {
                    produce(pair->b, frame_bytes);
                    arrived += consume(pair->a, bytes, &sum);
                }
            }
    while (now_ns(CLOCK_MONOTONIC) < end);
    sink_sum ^= sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
    return arrived;
}

static clockid_t cpu_clock(pid_t pid)
{
    clockid_t clock;
    if ((errno = clock_getcpuclockid(pid, &clock))) die("CPU clock of process %d", pid);
    return clock;
}

static void slice(target_t *target, pid_t pid, uint32_t frame_bytes, unsigned ways, unsigned warm_ms, unsigned run_ms)
{
    clockid_t clock = cpu_clock(pid);
    uint64_t bytes = 0;
    run(target, ways, frame_bytes, warm_ms * 1000000ull, &bytes);
    bytes = 0;
    uint64_t wall = now_ns(CLOCK_MONOTONIC), own = now_ns(CLOCK_THREAD_CPUTIME_ID), peer = now_ns(clock);
    uint64_t frames = run(target, ways, frame_bytes, run_ms * 1000000ull, &bytes);
    wall = now_ns(CLOCK_MONOTONIC) - wall;
    own = now_ns(CLOCK_THREAD_CPUTIME_ID) - own;
    peer = now_ns(clock) - peer;
    printf("slice %lu %lu %lu %lu %lu\n", frames, bytes, wall, own, peer);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What is still under way from earlier slices. */
static void drain(target_t *target)
{
    uint64_t bytes = 0, quiet_since = now_ns(CLOCK_MONOTONIC);
    block_t sum = { 0 };
    while (now_ns(CLOCK_MONOTONIC) - quiet_since < 3000000)
        for (unsigned k = 0; k < target->n; k++)
            if (consume(target->pairs[k].a, &bytes, &sum) + consume(target->pairs[k].b, &bytes, &sum))
                quiet_since = now_ns(CLOCK_MONOTONIC);
}

/* Sends a frame now and then until one has come through: a forwarder may be connected and not forward yet. */
static void wait_through(target_t *target, uint32_t frame_bytes)
{
    uint64_t bytes = 0, end = now_ns(CLOCK_MONOTONIC) + 60000000000;
    block_t sum = { 0 };
    for (unsigned k = 0; k < target->n; k++)
        while (!consume(target->pairs[k].b, &bytes, &sum)) {
            errno = ETIMEDOUT;
            if (now_ns(CLOCK_MONOTONIC) > end) die("no frame came through %s", target->name);
            produce_some(target->pairs[k].a, frame_bytes, 1);
            usleep(1000);
        }
    drain(target);
}

/* One frame in flight: the time from before it is written to after it has been read. */
static void latency(target_t *target, pid_t pid, uint32_t frame_bytes, unsigned warm_ms, unsigned run_ms)
{
    static double took_ns[SAMPLES];
    clockid_t clock = cpu_clock(pid);
    pair_t *pair = &target->pairs[0];
    uint64_t bytes = 0, lost = 0, n = 0, wall = 0, own = 0, peer = 0;
    block_t sum = { 0 };
    drain(target);
    for (int warm = 1; warm >= 0; warm--) {
        n = 0;
        wall = now_ns(CLOCK_MONOTONIC), own = now_ns(CLOCK_THREAD_CPUTIME_ID), peer = now_ns(clock);
        for (uint64_t end = wall + (warm ? warm_ms : run_ms) * 1000000ull, start = wall; start < end && n < SAMPLES;) {
            start = now_ns(CLOCK_MONOTONIC);
            produce_some(pair->a, frame_bytes, 1);
            while (!consume(pair->b, &bytes, &sum))
                if (now_ns(CLOCK_MONOTONIC) - start > 100000000) { lost++; break; }
            took_ns[n++] = (double)(now_ns(CLOCK_MONOTONIC) - start);
        }
    }
    wall = now_ns(CLOCK_MONOTONIC) - wall;
    own = now_ns(CLOCK_THREAD_CPUTIME_ID) - own;
    peer = now_ns(clock) - peer;
    qsort(took_ns, n, sizeof *took_ns, ascending);
    printf("latency %lu %lu %.0f %.0f %lu %lu %lu\n", n, lost, took_ns[n / 2], took_ns[n * 99 / 100], wall, own, peer);
}

/* Full load one way for a time, and then until nothing more arrives: frames sent and arrived since
 * the target was opened, the longest time without an arrival, and the time we looked. Time in which
 * we ourselves had no CPU is not counted: of a pass longer than LONGEST_PASS_NS, only so much. */
static void gap(target_t *target, uint32_t frame_bytes, unsigned run_ms)
{
    pair_t *pair = &target->pairs[0];
    uint64_t bytes = 0, silent = 0, longest = 0, looked = 0;
    block_t sum = { 0 };
    uint64_t now = now_ns(CLOCK_MONOTONIC), end = now + run_ms * 1000000ull;
    while (now < end) {
        pair->sent += produce(pair->a, frame_bytes);
        uint32_t n = consume(pair->b, &bytes, &sum);
        uint64_t then = now, pass;
        now = now_ns(CLOCK_MONOTONIC);
        pass = now - then < LONGEST_PASS_NS ? now - then : LONGEST_PASS_NS;
        looked += pass;
        silent = n ? 0 : silent + pass;
        longest = silent > longest ? silent : longest;
        pair->arrived += n;
    }
    for (uint64_t last = now; now - last < 30000000; now = now_ns(CLOCK_MONOTONIC)) {
        uint32_t n = consume(pair->b, &bytes, &sum);
        pair->arrived += n;
        if (n) last = now;
        else sched_yield();
    }
    printf("gap %lu %lu %lu %lu\n", pair->sent, pair->arrived, longest, looked);
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

static target_t *find(const char *name)
{
    for (unsigned i = 0; i < n_targets; i++)
        if (!strcmp(targets[i].name, name)) return &targets[i];
    return NULL;
}

static target_t *need(const char *name, uint32_t frame_bytes)
{
    target_t *target = find(name);
    errno = EINVAL;
    if (!target || frame_bytes < 32 || frame_bytes > BUFFER_BYTES) die("target %s, %u bytes", name, frame_bytes);
    return target;
}

static void add(const char *name, const char *a, const char *b, unsigned log2_ring)
{
    target_t *target = find(name);
    errno = EINVAL;
    if (!target && n_targets == TARGETS) die("more than %d targets", TARGETS);
    if (!target) strcpy((target = &targets[n_targets++])->name, name);
    if (target->n == PAIRS) die("more than %d vWires of %s", PAIRS, name);
    pair_t *pair = &target->pairs[target->n++];
    pair->a = peer_connect(a, 0, log2_ring, 1);
    pair->b = peer_connect(b, 0, log2_ring, 1);
}

int main(int argc, char **argv)
{
    if (argc != 4) { fprintf(stderr, "usage: generator CPU FORWARDER_CPU LOG2_RING\n"); return 2; }
    pin(atoi(argv[1]));
    forwarder_cpu = atoi(argv[2]);
    unsigned log2_ring = (unsigned)atoi(argv[3]), bytes, ways, warm_ms, run_ms;
    char line[512], name[32], a[200], b[200];
    int pid;
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %31s %199s %199s", name, a, b) == 3) {
            add(name, a, b, log2_ring);
            puts("open");
        } else if (sscanf(line, "through %31s", name) == 1) {
            wait_through(need(name, 64), 64);
            puts("through");
        } else if (!strcmp(line, "probe\n")) {
            probe();
        } else if (sscanf(line, "slice %31s %d %u %u %u %u", name, &pid, &bytes, &ways, &warm_ms, &run_ms) == 6) {
            slice(need(name, bytes), pid, bytes, ways, warm_ms, run_ms);
        } else if (sscanf(line, "latency %31s %d %u %u %u", name, &pid, &bytes, &warm_ms, &run_ms) == 5) {
            latency(need(name, bytes), pid, bytes, warm_ms, run_ms);
        } else if (sscanf(line, "gap %31s %u %u", name, &bytes, &run_ms) == 3) {
            gap(need(name, bytes), bytes, run_ms);
        } else {
            errno = EINVAL;
            die("command %s", line);
        }
        fflush(stdout);
    }
    return 0;
}
