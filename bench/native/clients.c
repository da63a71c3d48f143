/* Clients for many memif servers, each connected as soon as it listens: clients FOLDER FROM TO
 *
 * Sockets are FOLDER/NUMBER-a and -b, NUMBER from FROM to before TO. Stays connected until end of
 * input.
 */
#include "many.h"

static void one(const char *path)
{
    while (access(path, F_OK)) usleep(100);
    free(peer_connect(path, 0, 8, 0));
}

int main(int argc, char **argv)
{
    if (argc != 4) { fprintf(stderr, "usage: clients FOLDER FROM TO\n"); return 2; }
    for_all(argv[1], atoi(argv[2]), atoi(argv[3]), one);
    while (getchar() != EOF) ;
    return 0;
}
