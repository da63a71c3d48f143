"""A packet socket as an application has one: whole frames in, whole frames out, tags where they belong."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forwarder.dataplane.spec import Offload
from tests.support.netns import Netns

SOL_PACKET = 263
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
TP_STATUS_VLAN_VALID = 16
TP_STATUS_VLAN_TPID_VALID = 64

VNET_HDR = struct.Struct("=BBHHHH")
AUXDATA = struct.Struct("=IIIHHHH")


class PacketSocket:
    """Sends and receives frames on one link."""

    def __init__(self, sock: socket.socket, vnet_hdr: bool) -> None:
        self._socket = sock
        self._vnet_hdr = vnet_hdr

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes, offload: Offload | None = None) -> None:
        """Sends a frame; with an offload header if the socket was opened for that."""
        if self._vnet_hdr:
            o = offload or Offload()
            header = VNET_HDR.pack(o.flags, o.gso_type, o.header_length, o.gso_size, o.csum_start, o.csum_offset)
            frame = header + frame
        self._socket.send(frame)

    def receive(self, timeout_s: float = 5.0) -> tuple[bytes, Offload]:
        """Waits for a frame, with its VLAN tag put back. Raises TimeoutError."""
        self._socket.settimeout(timeout_s)
        data, control, _, _ = self._socket.recvmsg(1 << 17, socket.CMSG_SPACE(AUXDATA.size))
        offload = Offload()
        if self._vnet_hdr:
            flags, kind, header, size, start, offset = VNET_HDR.unpack_from(data)
            offload = Offload(
                flags=flags, gso_type=kind, header_length=header, gso_size=size, csum_start=start, csum_offset=offset
            )
            data = data[VNET_HDR.size :]
        for level, kind, content in control:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, tpid = AUXDATA.unpack(content)
                if status & TP_STATUS_VLAN_VALID:
                    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                    data = data[:12] + struct.pack(">HH", tpid, tci) + data[12:]
        return data, offload

    def receive_all(self, count: int, timeout_s: float = 5.0) -> list[bytes]:
        """Waits for `count` frames."""
        deadline = time.monotonic() + timeout_s
        return [self.receive(max(deadline - time.monotonic(), 0.001))[0] for _ in range(count)]

    def drain(self) -> list[bytes]:
        """Returns what is there now."""
        frames = []
        try:
            while True:
                frames.append(self.receive(0.05)[0])
        except TimeoutError:
            return frames


@contextmanager
def packet_socket(netns: Netns, link: str, *, vnet_hdr: bool = False) -> Iterator[PacketSocket]:
    """Opens a packet socket on a link, which sees what arrives there and not what leaves."""
    with netns.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, int(vnet_hdr))
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sock.bind((link, ETH_P_ALL))
        yield PacketSocket(sock, vnet_hdr)


def quiet(netns: Netns, link: str) -> None:
    """Keeps the kernel from sending anything of its own on a link: no ARP, no IPv6."""
    netns.run("sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1")
    netns.run("ip", "link", "set", link, "arp", "off", "multicast", "off")
