/* Clients for many memif servers, each connected as soon as it listens: clients FOLDER COUNT
 *
 * Sockets are FOLDER/NUMBER-a and -b. Stays connected until end of input.
 */
#include "memif_peer.h"

#include <sys/resource.h>

int main(int argc, char **argv)
{
    if (argc != 3) { fprintf(stderr, "usage: clients FOLDER COUNT\n"); return 2; }
    int count = atoi(argv[2]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 0; i < 2 * count; i++) {
        char path[200];
        snprintf(path, sizeof path, "%s/%d-%c", argv[1], i / 2, i & 1 ? 'b' : 'a');
        while (access(path, F_OK)) usleep(100);
        free(peer_connect(path, 0, 8, 0));
    }
    while (getchar() != EOF) ;
    return 0;
}
