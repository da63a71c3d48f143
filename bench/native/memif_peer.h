/* A memif 2.0 peer of a few functions, for the measurements: either role, one ring each way,
 * blocking control channel, no reconnection. It trusts its peer, as only a bench may.
 *
 * Message and ring layouts: the public memif.h, protocol version 2.0.
 */
#ifndef BENCH_MEMIF_PEER_H
#define BENCH_MEMIF_PEER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MSG_ACK = 1, MSG_HELLO, MSG_INIT, MSG_ADD_REGION, MSG_ADD_RING, MSG_CONNECT, MSG_CONNECTED };
enum { MESSAGE_BYTES = 128, VERSION = 0x0200, FLAG_S2M = 1, FLAG_MASK_INT = 1, BUFFER_BYTES = 2048, REGIONS = 16 };
#define COOKIE 0x03E31F20u

typedef struct {
    uint16_t flags;
    uint16_t region;
    uint32_t length;
    uint32_t offset;
    uint32_t metadata;
} descriptor_t;
_Static_assert(sizeof(descriptor_t) == 16, "descriptor size");

typedef struct {
    uint32_t cookie;
    uint16_t flags;
    uint16_t head;
    uint8_t pad1[56];
    uint16_t tail;
    uint8_t pad2[62];
    descriptor_t slots[];
} ring_t;
_Static_assert(sizeof(ring_t) == 128, "ring header size");

typedef struct {
    uint8_t *base;
    uint64_t bytes;
} region_t;

/* One connected interface. `s2m` carries frames from client to server, `m2s` the other way. The
 * private indices are ours alone: the last value we published or read up to. */
typedef struct {
    int control;
    uint32_t n_regions;
    region_t regions[REGIONS];
    uint32_t size;
    ring_t *s2m, *m2s;
    int s2m_event, m2s_event;
    uint16_t s2m_at, m2s_at;
} peer_t;

static inline uint16_t load_acquire(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

static inline uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, ": %s\n", strerror(error));
    exit(1);
}

__attribute__((unused)) static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("pinning to CPU %d", cpu);
}

/* Wakes the packet receiver of a ring if it asked for that. */
static inline void kick(const ring_t *ring, int event)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&ring->flags, __ATOMIC_RELAXED) & FLAG_MASK_INT)) {
        uint64_t one = 1;
        if (write(event, &one, sizeof one) < 0 && errno != EAGAIN) die("kick");
    }
}

static void send_message(int fd, const uint8_t *message, int descriptor)
{
    struct iovec part = { (void *)message, MESSAGE_BYTES };
    union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int))]; } control = { 0 };
    struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
    if (descriptor >= 0) {
        header.msg_control = control.space;
        header.msg_controllen = sizeof control.space;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
    }
    if (sendmsg(fd, &header, MSG_NOSIGNAL) != MESSAGE_BYTES) die("sending a memif message");
}

/* Receives one message of the wanted type; returns the descriptor that came with it, or -1. */
static int receive_message(int fd, uint8_t *message, unsigned wanted)
{
    struct iovec part = { message, MESSAGE_BYTES };
    char space[256];
    struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
    errno = 0;
    if (recvmsg(fd, &header, MSG_CMSG_CLOEXEC) != MESSAGE_BYTES) die("receiving memif message %u", wanted);
    int descriptor = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) memcpy(&descriptor, CMSG_DATA(c), sizeof(int));
    uint16_t type;
    memcpy(&type, message, 2);
    if (wanted && type != wanted) die("memif message %u where %u was due (%.90s)", type, wanted, (char *)message + 6);
    return descriptor;
}

static void begin(uint8_t *message, uint16_t type)
{
    memset(message, 0, MESSAGE_BYTES);
    memcpy(message, &type, 2);
}

#define PUT(message, offset, kind, value) do { kind put_ = (kind)(value); memcpy((message) + (offset), &put_, sizeof put_); } while (0)
#define GET(message, offset, kind) ({ kind got_; memcpy(&got_, (message) + (offset), sizeof got_); got_; })

static size_t ring_bytes(uint32_t size) { return sizeof(ring_t) + (size_t)size * sizeof(descriptor_t); }

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof address.sun_path) { errno = ENAMETOOLONG; die("%s", path); }
    strcpy(address.sun_path, path);
    return address;
}

/* Connects and introduces itself, again and again until the server is there and knows the id. */
__attribute__((unused)) static int greet(const char *path, uint32_t id)
{
    uint8_t message[MESSAGE_BYTES];
    struct sockaddr_un address = address_of(path);
    for (int tries = 0; tries < 10000; tries++, usleep(1000)) {
        int control = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (!connect(control, (struct sockaddr *)&address, sizeof address)) {
            receive_message(control, message, MSG_HELLO);
            begin(message, MSG_INIT);
            PUT(message, 2, uint16_t, VERSION);
            PUT(message, 4, uint32_t, id);
            strcpy((char *)message + 33, "bench");
            send_message(control, message, -1);
            receive_message(control, message, 0);
            if (GET(message, 0, uint16_t) == MSG_ACK) return control;
            errno = ECONNREFUSED;
        }
        close(control);
    }
    die("connecting to %s", path);
}

/* Connects as client: one region with both rings and their buffers; `populate` touches its pages now. */
__attribute__((unused)) static peer_t *peer_connect(const char *path, uint32_t id, unsigned log2_size, int populate)
{
    peer_t *peer = calloc(1, sizeof *peer);
    uint8_t message[MESSAGE_BYTES];
    uint32_t size = peer->size = 1u << log2_size;
    uint64_t rings = 2 * ring_bytes(size), bytes = rings + 2ull * size * BUFFER_BYTES;
    int memory = memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0 || ftruncate(memory, (off_t)bytes)
        || fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) die("memfd of %lu bytes", bytes);
    int flags = MAP_SHARED | (populate ? MAP_POPULATE : 0);
    uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, memory, 0);
    if (base == MAP_FAILED) die("mapping %lu bytes", bytes);
    peer->regions[peer->n_regions++] = (region_t){ base, bytes };
    peer->s2m = (ring_t *)base;
    peer->m2s = (ring_t *)(base + ring_bytes(size));
    peer->s2m_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    peer->m2s_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    peer->s2m->cookie = peer->m2s->cookie = COOKIE;
    peer->m2s->flags = FLAG_MASK_INT; /* we poll */

    peer->control = greet(path, id);
    begin(message, MSG_ADD_REGION);
    PUT(message, 4, uint64_t, bytes);
    send_message(peer->control, message, memory);
    receive_message(peer->control, message, MSG_ACK);
    for (int s2m = 1; s2m >= 0; s2m--) {
        begin(message, MSG_ADD_RING);
        PUT(message, 2, uint16_t, s2m ? FLAG_S2M : 0);
        PUT(message, 8, uint32_t, s2m ? 0 : ring_bytes(size));
        PUT(message, 12, uint8_t, log2_size);
        send_message(peer->control, message, s2m ? peer->s2m_event : peer->m2s_event);
        receive_message(peer->control, message, MSG_ACK);
    }
    begin(message, MSG_CONNECT);
    strcpy((char *)message + 2, "bench");
    send_message(peer->control, message, -1);
    receive_message(peer->control, message, MSG_CONNECTED);
    close(memory);

    for (uint32_t i = 0; i < size; i++) {
        uint32_t offset = (uint32_t)(rings + (uint64_t)i * BUFFER_BYTES);
        peer->s2m->slots[i] = (descriptor_t){ .offset = offset };
        peer->m2s->slots[i] = (descriptor_t){ .offset = offset + size * BUFFER_BYTES, .length = BUFFER_BYTES };
    }
    store_release(&peer->m2s->head, (uint16_t)size);
    return peer;
}

/* Listens as server; the socket file is made anew. */
__attribute__((unused)) static int peer_listen(const char *path)
{
    struct sockaddr_un address = address_of(path);
    unlink(path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8)) die("listening on %s", path);
    return listener;
}

/* Accepts one client and maps what it brings; `populate` touches its pages now. */
__attribute__((unused)) static peer_t *peer_accept(int listener, int populate)
{
    peer_t *peer = calloc(1, sizeof *peer);
    uint8_t message[MESSAGE_BYTES], ack[MESSAGE_BYTES];
    begin(ack, MSG_ACK);
    peer->control = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (peer->control < 0) die("accepting a memif client");
    begin(message, MSG_HELLO);
    strcpy((char *)message + 2, "bench");
    PUT(message, 34, uint16_t, VERSION);
    PUT(message, 36, uint16_t, VERSION);
    PUT(message, 38, uint16_t, REGIONS - 1);
    PUT(message, 44, uint8_t, 14);
    send_message(peer->control, message, -1);
    receive_message(peer->control, message, MSG_INIT);
    send_message(peer->control, ack, -1);
    for (;;) {
        int descriptor = receive_message(peer->control, message, 0);
        uint16_t type = GET(message, 0, uint16_t);
        if (type == MSG_CONNECT) break;
        if (type == MSG_ADD_REGION) {
            uint64_t bytes = GET(message, 4, uint64_t);
            int flags = MAP_SHARED | (populate ? MAP_POPULATE : 0);
            uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0);
            if (base == MAP_FAILED || peer->n_regions == REGIONS) die("mapping a region of %lu bytes", bytes);
            peer->regions[peer->n_regions++] = (region_t){ base, bytes };
            close(descriptor);
        } else if (type == MSG_ADD_RING) {
            ring_t *ring = (ring_t *)(peer->regions[GET(message, 6, uint16_t)].base + GET(message, 8, uint32_t));
            peer->size = 1u << GET(message, 12, uint8_t);
            if (GET(message, 2, uint16_t) & FLAG_S2M) {
                peer->s2m = ring;
                peer->s2m_event = descriptor;
            } else {
                peer->m2s = ring;
                peer->m2s_event = descriptor;
            }
        } else die("memif message %u", type);
        send_message(peer->control, ack, -1);
    }
    __atomic_store_n(&peer->s2m->flags, FLAG_MASK_INT, __ATOMIC_RELAXED); /* we poll */
    begin(message, MSG_CONNECTED);
    strcpy((char *)message + 2, "bench");
    send_message(peer->control, message, -1);
    return peer;
}

/* Goes away without a word, as a program that dies does. */
__attribute__((unused)) static void peer_close(peer_t *peer)
{
    close(peer->control);
    close(peer->s2m_event);
    close(peer->m2s_event);
    for (uint32_t i = 0; i < peer->n_regions; i++) munmap(peer->regions[i].base, peer->regions[i].bytes);
    free(peer);
}

#endif
