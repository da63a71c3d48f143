"""System calls that Python 3.11 does not offer, for control."""

from libc.errno cimport errno
from libc.string cimport memset

from forwarder.dataplane.linux cimport (
    AF_PACKET,
    BPF_K,
    BPF_RET,
    PACKET_FANOUT_DATA,
    SO_ATTACH_FILTER,
    SOL_PACKET,
    SOL_SOCKET,
    bind,
    htons,
    setsockopt,
    sock_filter,
    sock_fprog,
    sockaddr,
    sockaddr_ll,
)

import os


cdef void one_instruction(sock_fprog *program, sock_filter *instruction, unsigned int value) noexcept nogil:
    """Writes the program that returns `value`, whatever the frame."""
    instruction.code = BPF_RET | BPF_K
    instruction.jt = 0
    instruction.jf = 0
    instruction.k = value
    program.len = 1
    program.filter = instruction


def bind_packet_socket(int fd, int ifindex, int ethertype):
    """Binds a packet socket to the link with this index. Raises OSError. See packet(7)."""
    cdef sockaddr_ll address
    memset(&address, 0, sizeof(address))
    address.sll_family = AF_PACKET
    address.sll_protocol = htons(<unsigned short>ethertype)
    address.sll_ifindex = ifindex
    if bind(fd, <const sockaddr *>&address, sizeof(address)) < 0:
        raise OSError(errno, os.strerror(errno))


def refuse_all_frames(int fd):
    """Attaches a filter that lets nothing into the socket. Raises OSError. See socket(7)."""
    cdef sock_filter drop
    cdef sock_fprog program
    one_instruction(&program, &drop, 0)
    if setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0:
        raise OSError(errno, os.strerror(errno))


def steer_fanout(int fd, int member):
    """Gives every frame of a fanout group to one member, by its place in the group.

    `fd` is any socket of the group, which has the type PACKET_FANOUT_CBPF. When this returns,
    no frame is under way to another member. Raises OSError. See packet(7).
    """
    cdef sock_filter choose
    cdef sock_fprog program
    cdef int status
    one_instruction(&program, &choose, <unsigned int>member)
    with nogil:             # waits for the packets in flight
        status = setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof(program))
    if status < 0:
        raise OSError(errno, os.strerror(errno))
