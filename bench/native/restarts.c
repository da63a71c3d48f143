/* A memif application that restarts again and again: restarts SOCKET_A SOCKET_B COUNT PAUSE_MS
 *
 * A forwarder joins the two: it listens on SOCKET_A, where we are a client for good, and is client
 * of SOCKET_B, where we are a server that goes away and comes back. Says for each return how many
 * milliseconds pass from the moment it listens again to the first frame from A that reaches it;
 * the restarts are not in step with anything.
 */
#include "memif_peer.h"

enum { FRAME_BYTES = 64, LIMIT_MS = 10000 };

/* Sends what fits, one frame at a time, so that the first to arrive is a new one. */
static void offer(peer_t *peer)
{
    if ((uint16_t)(peer->s2m_at - load_acquire(&peer->s2m->tail)) >= peer->size) return;
    descriptor_t *slot = &peer->s2m->slots[peer->s2m_at & (peer->size - 1)];
    memset(peer->regions[0].base + slot->offset, 0x55, FRAME_BYTES);
    slot->flags = 0;
    slot->length = FRAME_BYTES;
    peer->s2m_at++;
    store_release(&peer->s2m->head, peer->s2m_at);
    kick(peer->s2m, peer->s2m_event);
}

int main(int argc, char **argv)
{
    if (argc != 5) { fprintf(stderr, "usage: restarts SOCKET_A SOCKET_B COUNT PAUSE_MS\n"); return 2; }
    int count = atoi(argv[3]), pause_ms = atoi(argv[4]);
    peer_t *a = peer_connect(argv[1], 0, 8, 1);
    srand(1);
    for (int i = -1; i < count; i++) { /* the first is no restart */
        int listener = peer_listen(argv[2]);
        uint64_t start = now_ns(CLOCK_MONOTONIC);
        struct pollfd called = { listener, POLLIN, 0 };
        if (poll(&called, 1, LIMIT_MS) != 1) { errno = ETIMEDOUT; die("nobody connected to %s", argv[2]); }
        peer_t *b = peer_accept(listener, 1);
        while (load_acquire(&b->s2m->head) == b->s2m_at) {
            offer(a);
            usleep(20);
            if (now_ns(CLOCK_MONOTONIC) - start > LIMIT_MS * 1000000ull) { errno = ETIMEDOUT; die("no frame on %s", argv[2]); }
        }
        if (i >= 0) printf("back %.3f\n", (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e6);
        fflush(stdout);
        close(listener);
        peer_close(b);
        usleep((unsigned)(pause_ms * 1000 + rand() % (pause_ms * 1000)));
    }
    puts("done");
    return 0;
}
