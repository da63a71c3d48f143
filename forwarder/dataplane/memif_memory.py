"""Shared memory of memif connections: making our own, and looking at what a peer hands over.

Layout of what we make: region 0 holds the ring to the server, the ring to the client, then the
buffers of the one and of the other. Source: memif.h of VPP; memfd_create(2), fcntl(2).
"""

import fcntl
import mmap
import os
import stat
import struct
from dataclasses import dataclass
from typing import Final

from forwarder.dataplane.memif import file_system_type
from forwarder.dataplane.memif_control import DESCRIPTOR_BYTES, RING_HEADER_BYTES, Memory, Region, Ring
from forwarder.errors import DataplaneError, RemoteProtocolError

COOKIE: Final = 0x03E31F20

# linux/magic.h
TMPFS_MAGIC: Final = 0x01021994
HUGETLBFS_MAGIC: Final = 0x958458F6

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where things are in region 0; all in bytes from its start."""

    log2_ring_size: int
    buffer_bytes: int
    """Of each slot."""

    @property
    def ring_bytes(self) -> int:
        """Length of one ring with its header."""
        return RING_HEADER_BYTES + (DESCRIPTOR_BYTES << self.log2_ring_size)

    @property
    def to_server_ring(self) -> int:
        """Where the ring to the server starts."""
        return 0

    @property
    def to_client_ring(self) -> int:
        """Where the ring to the client starts."""
        return self.ring_bytes

    @property
    def to_server_buffers(self) -> int:
        """Where the buffer of slot 0 of the ring to the server starts."""
        return 2 * self.ring_bytes

    @property
    def to_client_buffers(self) -> int:
        """Where the buffer of slot 0 of the ring to the client starts."""
        return self.to_server_buffers + (self.buffer_bytes << self.log2_ring_size)

    @property
    def size(self) -> int:
        """Length of the region."""
        return self.to_client_buffers + (self.buffer_bytes << self.log2_ring_size)


def create_memory(layout: Layout) -> Memory:
    """Makes a client's memory: region 0, sealed, with one ring each way, and an eventfd for each.

    The caller owns the descriptors. Raises DataplaneError.
    """
    fds: list[int] = []
    try:
        region = os.memfd_create("memif", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fds.append(region)
        os.ftruncate(region, layout.size)
        fcntl.fcntl(region, fcntl.F_ADD_SEALS, _SEALS)
        with mmap.mmap(region, 2 * layout.ring_bytes) as rings:
            for offset in (layout.to_server_ring, layout.to_client_ring):
                struct.pack_into("<I", rings, offset, COOKIE)
        rings_made = []
        for to_server, offset in ((True, layout.to_server_ring), (False, layout.to_client_ring)):
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            fds.append(fd)
            rings_made.append(
                Ring(
                    to_server=to_server,
                    index=0,
                    region=0,
                    offset=offset,
                    log2_ring_size=layout.log2_ring_size,
                    fd=fd,
                )
            )
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise DataplaneError(f"making memif memory of {layout.size} bytes", errno=error.errno or 0) from error
    return Memory(regions=(Region(index=0, size=layout.size, fd=region),), rings=tuple(rings_made))


def check_region_fd(fd: int, size: int, *, allow_unsealed: bool = False) -> None:
    """Raises RemoteProtocolError unless `fd` is memory of at least `size` bytes that cannot shrink.

    `allow_unsealed` takes memory that its owner can truncate; touching it may then raise SIGBUS.
    Files of other file systems than shared memory and huge pages are refused: a page fault of
    theirs can be held up for ever by whoever serves them.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise RemoteProtocolError("memif region is not a regular file")
    kind = file_system_type(fd)
    if kind not in (TMPFS_MAGIC, HUGETLBFS_MAGIC):
        raise RemoteProtocolError(f"memif region is on a file system of type {kind:#010x}, not shared memory")
    if status.st_size < size:
        raise RemoteProtocolError(f"memif region of {size} bytes in a file of {status.st_size}")
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    if not seals & fcntl.F_SEAL_SHRINK and not allow_unsealed:
        raise RemoteProtocolError("memif region can be truncated: it lacks F_SEAL_SHRINK")


def check_event_fd(fd: int) -> None:
    """Raises RemoteProtocolError unless `fd` is an eventfd, which is made non-blocking.

    A write to anything else could block a worker, or end up in some file.
    """
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")
    except OSError as error:
        raise DataplaneError("looking at a memif ring's descriptor", errno=error.errno or 0) from error
    if kind != "anon_inode:[eventfd]":
        raise RemoteProtocolError(f"memif ring with {kind} instead of an eventfd")
    os.set_blocking(fd, False)


def close_regions(memory: Memory) -> Memory:
    """Closes the regions' descriptors, for mapped memory does not need them; returns what is left."""
    for region in memory.regions:
        os.close(region.fd)
    return Memory(regions=(), rings=memory.rings)
