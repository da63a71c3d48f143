"""Declarations of the kernel's ABI, as far as the ports need it; nothing else."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        MSG_TRUNC
        MSG_CTRUNC
        AF_PACKET
        SOL_SOCKET
        SO_ERROR
        SO_ATTACH_FILTER
    struct msghdr:
        void *msg_name
        uint32_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        uint32_t msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct timespec
    int recvmmsg(int fd, mmsghdr *messages, uint32_t n, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, uint32_t n, int flags)
    struct sockaddr
    int bind(int fd, const sockaddr *address, uint32_t length)
    int getsockopt(int fd, int level, int name, void *value, uint32_t *length)
    int setsockopt(int fd, int level, int name, const void *value, uint32_t length)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
    void *MAP_FAILED
    void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset)
    int munmap(void *at, size_t size)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout_ms)

cdef extern from "<linux/virtio_net.h>" nogil:
    # The legacy header of packet sockets: ten bytes, numbers in the byte order of the machine.
    struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset

cdef extern from "<linux/if_packet.h>" nogil:
    enum:
        PACKET_RX_RING
        PACKET_STATISTICS
        PACKET_AUXDATA
        PACKET_QDISC_BYPASS
        PACKET_FANOUT_DATA
        TP_STATUS_KERNEL
        TP_STATUS_USER
        TP_STATUS_VLAN_VALID
        TP_STATUS_VLAN_TPID_VALID
    struct sockaddr_ll:
        uint16_t sll_family
        uint16_t sll_protocol
        int sll_ifindex
    struct tpacket_auxdata:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_net
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint16_t tp_net
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket_req:
        uint32_t tp_block_size
        uint32_t tp_block_nr
        uint32_t tp_frame_size
        uint32_t tp_frame_nr
    struct tpacket_stats:
        uint32_t tp_packets
        uint32_t tp_drops

cdef extern from *:
    enum:
        SOL_PACKET

cdef extern from "<linux/filter.h>" nogil:
    enum:
        BPF_RET
        BPF_K
    struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    struct sock_fprog:
        uint16_t len
        sock_filter *filter

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t number)
