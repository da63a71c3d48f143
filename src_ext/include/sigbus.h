/* Survives a peer that truncates memory it shares with us.
 *
 * Touching a page beyond the end of a mapped file raises SIGBUS. The handler looks the address up
 * in a table of shared mappings, puts anonymous memory in place of the whole mapping, marks its
 * owner dead and returns: the access is repeated and finds zeros. Any other SIGBUS goes to whoever
 * handled it before.
 *
 * The table is changed by one thread at a time (holding the GIL); the handler reads it from any
 * thread, at any moment. Only async-signal-safe calls in there; mmap is a bare system call.
 */
#ifndef VWIRE_SIGBUS_H
#define VWIRE_SIGBUS_H

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define SIGBUS_MAPPINGS 65536

typedef struct {
    uint8_t *base;  /* NULL: free; written last, with release */
    size_t size;
    uint32_t *dead; /* set to 1 when the mapping broke */
    uint32_t next;  /* free list, as index + 1 */
} sigbus_mapping_t;

static sigbus_mapping_t sigbus_mappings[SIGBUS_MAPPINGS];
static uint32_t sigbus_used; /* entries that were ever in use */
static uint32_t sigbus_free; /* head of the free list, as index + 1 */
static struct sigaction sigbus_previous;
static int sigbus_passed_on;

static void sigbus_handle(int number, siginfo_t *info, void *context) {
    int saved = errno;
    uint8_t *address = (uint8_t *)info->si_addr;
    uint32_t used = __atomic_load_n(&sigbus_used, __ATOMIC_ACQUIRE);
    if (info->si_code > 0 && info->si_code != SI_KERNEL) {
        for (uint32_t i = 0; i < used; i++) {
            sigbus_mapping_t *mapping = &sigbus_mappings[i];
            uint8_t *base = __atomic_load_n(&mapping->base, __ATOMIC_ACQUIRE);
            if (!base || address < base || address >= base + mapping->size)
                continue;
            if (mmap(base, mapping->size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
                break;
            __atomic_store_n(mapping->dead, 1, __ATOMIC_RELEASE);
            errno = saved;
            return;
        }
    }
    errno = saved;
    /* Not ours. Passed on once: a handler that comes back here would go round for ever. */
    if (__atomic_exchange_n(&sigbus_passed_on, 1, __ATOMIC_ACQ_REL) == 0) {
        if (sigbus_previous.sa_flags & SA_SIGINFO) {
            sigbus_previous.sa_sigaction(number, info, context);
            return;
        }
        if (sigbus_previous.sa_handler != SIG_DFL && sigbus_previous.sa_handler != SIG_IGN) {
            sigbus_previous.sa_handler(number);
            return;
        }
    }
    struct sigaction fallback;
    memset(&fallback, 0, sizeof fallback);
    fallback.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &fallback, NULL); /* the access is repeated and ends the process */
}

/* Installs the handler, unless it is installed; 0 or -1 with errno. */
static inline int sigbus_install(void) {
    struct sigaction now, wanted;
    if (sigaction(SIGBUS, NULL, &now))
        return -1;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == sigbus_handle)
        return 0;
    sigbus_previous = now;
    memset(&wanted, 0, sizeof wanted);
    wanted.sa_sigaction = sigbus_handle;
    wanted.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&wanted.sa_mask);
    return sigaction(SIGBUS, &wanted, NULL);
}

/* Enters a mapping; returns its number, or -1 if the table is full. */
static inline int64_t sigbus_watch(uint8_t *base, size_t size, uint32_t *dead) {
    uint32_t i;
    if (sigbus_free) {
        i = sigbus_free - 1;
        sigbus_free = sigbus_mappings[i].next;
    } else if (sigbus_used < SIGBUS_MAPPINGS) {
        i = sigbus_used;
        __atomic_store_n(&sigbus_used, i + 1, __ATOMIC_RELEASE);
    } else {
        return -1;
    }
    sigbus_mappings[i].size = size;
    sigbus_mappings[i].dead = dead;
    __atomic_store_n(&sigbus_mappings[i].base, base, __ATOMIC_RELEASE);
    return i;
}

/* Takes a mapping out; nobody may touch its memory any more. */
static inline void sigbus_forget(int64_t number) {
    uint32_t i = (uint32_t)number;
    __atomic_store_n(&sigbus_mappings[i].base, NULL, __ATOMIC_RELEASE);
    sigbus_mappings[i].next = sigbus_free;
    sigbus_free = i + 1;
}

#endif
