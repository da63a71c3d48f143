/* Sends small UDP frames out of one interface as fast as it can: flood LINK SOURCE_MAC TARGET_MAC SOURCE TARGET SECONDS
 *
 * A packet socket and sendmmsg, 64 frames of 64 bytes at once, past the sender's own IP stack. Says
 * how many frames the kernel took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BURST = 64, FRAME_BYTES = 64, ETHERNET_BYTES = 14, IP_BYTES = 20, PORT_DISCARD = 9 };

static void mac(uint8_t *to, const char *text)
{
    unsigned b[6];
    if (sscanf(text, "%x:%x:%x:%x:%x:%x", b, b + 1, b + 2, b + 3, b + 4, b + 5) != 6) { fprintf(stderr, "%s: no MAC\n", text); exit(2); }
    for (int i = 0; i < 6; i++) to[i] = (uint8_t)b[i];
}

static uint16_t checksum(const uint8_t *from, int n)
{
    uint32_t sum = 0;
    for (int i = 0; i < n; i += 2) sum += (uint32_t)(from[i] << 8 | from[i + 1]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc != 7) { fprintf(stderr, "usage: flood LINK SOURCE_MAC TARGET_MAC SOURCE TARGET SECONDS\n"); return 2; }
    uint8_t frame[FRAME_BYTES] = { 0 };
    mac(frame, argv[3]);
    mac(frame + 6, argv[2]);
    uint8_t *ip = frame + ETHERNET_BYTES, *udp = ip + IP_BYTES;
    uint16_t total = htons(FRAME_BYTES - ETHERNET_BYTES), length = htons(FRAME_BYTES - ETHERNET_BYTES - IP_BYTES);
    uint16_t port = htons(PORT_DISCARD), type = htons(ETHERTYPE_IP), sum;
    memcpy(frame + 12, &type, 2);
    ip[0] = 0x45;
    memcpy(ip + 2, &total, 2);
    ip[8] = 64;
    ip[9] = IPPROTO_UDP;
    if (inet_pton(AF_INET, argv[4], ip + 12) != 1 || inet_pton(AF_INET, argv[5], ip + 16) != 1) { fprintf(stderr, "addresses %s %s\n", argv[4], argv[5]); return 2; }
    sum = htons(checksum(ip, IP_BYTES));
    memcpy(ip + 10, &sum, 2);
    memcpy(udp, &port, 2);
    memcpy(udp + 2, &port, 2);
    memcpy(udp + 4, &length, 2); /* no checksum, as IPv4 allows */

    int fd = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll link = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(argv[1]) };
    if (fd < 0 || !link.sll_ifindex || bind(fd, (struct sockaddr *)&link, sizeof link)) { perror(argv[1]); return 1; }
    struct iovec part = { frame, sizeof frame };
    struct mmsghdr burst[BURST];
    memset(burst, 0, sizeof burst);
    for (int i = 0; i < BURST; i++) burst[i].msg_hdr = (struct msghdr){ .msg_iov = &part, .msg_iovlen = 1 };
    uint64_t sent = 0;
    for (double end = now() + atof(argv[6]); now() < end;) {
        int n = sendmmsg(fd, burst, BURST, 0);
        if (n > 0) sent += (uint64_t)n;
        else if (errno != ENOBUFS && errno != EAGAIN) { perror("sendmmsg"); return 1; }
    }
    printf("sent %lu\n", sent);
    return 0;
}
