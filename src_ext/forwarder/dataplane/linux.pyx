"""System calls that Python 3.11 does not offer, for control."""

from libc.errno cimport errno
from libc.string cimport memset

from forwarder.dataplane.linux cimport AF_PACKET, CLONE_NEWNET, bind, htons, setns, sockaddr, sockaddr_ll

import os


def enter_netns(int fd):
    """Moves the calling thread into the network namespace `fd` refers to.

    For threads made for that: it stays there. Raises OSError. See setns(2).
    """
    if setns(fd, CLONE_NEWNET) < 0:
        raise OSError(errno, os.strerror(errno))


def bind_packet_socket(int fd, int ifindex, int ethertype):
    """Binds a packet socket to the link with this index. Raises OSError. See packet(7)."""
    cdef sockaddr_ll address
    memset(&address, 0, sizeof(address))
    address.sll_family = AF_PACKET
    address.sll_protocol = htons(<unsigned short>ethertype)
    address.sll_ifindex = ifindex
    if bind(fd, <const sockaddr *>&address, sizeof(address)) < 0:
        raise OSError(errno, os.strerror(errno))
