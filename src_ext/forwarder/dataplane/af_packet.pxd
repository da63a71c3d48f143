"""Port over a packet socket: a kernel link, usually our end of a veth pair.

Frames come with their virtio_net_hdr, so that super-frames and partial checksums of
local senders pass from kernel to kernel as they are. See packet(7), linux/if_packet.h.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from forwarder.dataplane.packet_ring cimport PacketRing, packet_ring_t
from forwarder.dataplane.port cimport Port, port_t

cdef struct af_packet_t:
    port_t port
    # Constant once open; read by the worker.
    int fd                      # borrowed from AfPacketPort.socket
    bint ip_mode
    uint32_t frame_bytes_max    # longest frame without GSO and VLAN tag, Ethernet header included
    uint8_t ethernet[14]        # IP mode: what goes before a packet to send; the EtherType is set per packet
    # The ring, while there is one: written by control, exchanged atomically. It may be unmapped
    # when it stands here no more and the worker holds it no more.
    packet_ring_t *ring
    # Written by the worker.
    packet_ring_t *held         # the ring it is using, NULL between bursts; atomic
    uint64_t received           # frames taken from the kernel
    uint64_t received_large     # those of them that a ring is good for
    bint strays                 # frames may wait in the queue although the ring is in use
    bint bypass                 # sends around the queue discipline
    uint32_t bursts_apart       # to be sent without coalescing


cdef class AfPacketPort(Port):
    cdef af_packet_t *packet
    cdef readonly object socket     # owned
    cdef readonly str name
    cdef readonly PacketRing ring   # the one that control has attached, or None
    cdef readonly object error      # DataplaneError that says why the port is dead, or None
