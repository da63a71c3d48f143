/* Bare memif servers, in the place of a forwarder: servers FOLDER COUNT
 *
 * What the set-up of so many vWires costs without a forwarder: listens on FOLDER/NUMBER-a and -b,
 * accepts one client on each, maps what it brings, and says how many seconds that took. Stays
 * until end of input.
 */
#include "many.h"

static void one(const char *path) { free(peer_accept(peer_listen(path), 0)); }

int main(int argc, char **argv)
{
    if (argc != 3) { fprintf(stderr, "usage: servers FOLDER COUNT\n"); return 2; }
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF) return 1;
    uint64_t start = now_ns(CLOCK_MONOTONIC);
    for_all(argv[1], 0, atoi(argv[2]), one);
    printf("servers %.6f\n", (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9);
    fflush(stdout);
    while (getchar() != EOF) ;
    return 0;
}
