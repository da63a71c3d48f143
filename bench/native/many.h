/* Many memif ends at once, a few at a time. */
#ifndef BENCH_MANY_H
#define BENCH_MANY_H

#include "memif_peer.h"

#include <pthread.h>
#include <sys/resource.h>

enum { THREADS = 8 };

static struct {
    const char *folder;
    int next, end;
    void (*one)(const char *path);
} work;

static void *worker(void *unused)
{
    (void)unused;
    for (int i; (i = __atomic_fetch_add(&work.next, 1, __ATOMIC_RELAXED)) < work.end;) {
        char path[200];
        snprintf(path, sizeof path, "%s/%d-%c", work.folder, i / 2, i & 1 ? 'b' : 'a');
        work.one(path);
    }
    return NULL;
}

/* Calls `one` with FOLDER/NUMBER-a and -b for every number from `from` to before `to`. */
static void for_all(const char *folder, int from, int to, void (*one)(const char *path))
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    work.folder = folder;
    work.next = 2 * from;
    work.end = 2 * to;
    work.one = one;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        if ((errno = pthread_create(&threads[i], NULL, worker, NULL))) die("starting a thread");
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

#endif
