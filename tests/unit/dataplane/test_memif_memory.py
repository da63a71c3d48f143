"""Memory that we make for a memif connection, and what we take from a peer."""

import fcntl
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from forwarder.dataplane.memif_memory import COOKIE, Layout, check_event_fd, check_region_fd, create_memory
from forwarder.errors import RemoteProtocolError


@contextmanager
def memfd(size: int, seals: int = 0) -> Iterator[int]:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


def test_the_layout_is_that_of_other_implementations() -> None:
    layout = Layout(log2_ring_size=10, buffer_bytes=2048)
    assert (layout.to_server_ring, layout.to_client_ring) == (0, 16512)
    assert (layout.to_server_buffers, layout.to_client_buffers) == (33024, 33024 + 2048 * 1024)
    assert layout.size == 4_227_328


@pytest.mark.parametrize("log2", range(8, 15))
def test_made_memory_is_sealed_and_has_two_rings(log2: int) -> None:
    layout = Layout(log2_ring_size=log2, buffer_bytes=2048)
    memory = create_memory(layout)
    try:
        (region,) = memory.regions
        check_region_fd(region.fd, region.size)
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, 0)
        assert [ring.to_server for ring in memory.rings] == [True, False]
        with mmap.mmap(region.fd, region.size) as mapped:
            for ring in memory.rings:
                check_event_fd(ring.fd)
                assert not os.get_blocking(ring.fd)
                assert int.from_bytes(mapped[ring.offset : ring.offset + 4], "little") == COOKIE
                assert not any(mapped[ring.offset + 4 : ring.end])
        assert os.fstat(region.fd).st_blocks * 512 <= 2 * layout.ring_bytes + 4096
    finally:
        memory.close()


def test_a_region_that_can_shrink_is_taken_only_when_allowed() -> None:
    with memfd(4096) as fd:
        with pytest.raises(RemoteProtocolError, match="F_SEAL_SHRINK"):
            check_region_fd(fd, 4096)
        check_region_fd(fd, 4096, allow_unsealed=True)


def test_a_region_shorter_than_it_is_said_to_be_is_refused() -> None:
    with (
        memfd(4096, fcntl.F_SEAL_SHRINK) as fd,
        pytest.raises(RemoteProtocolError, match="4097 bytes in a file of 4096"),
    ):
        check_region_fd(fd, 4097)


def test_a_region_on_a_disk_or_worse_is_refused() -> None:
    # /proc is neither shared memory nor huge pages, and always there.
    with open("/proc/self/status", "rb") as file, pytest.raises(RemoteProtocolError, match="file system"):
        check_region_fd(file.fileno(), 1)


def test_a_region_that_is_no_file_is_refused() -> None:
    for fds in (os.pipe(), tuple(sock.detach() for sock in socket.socketpair())):
        for fd in fds:
            with pytest.raises(RemoteProtocolError, match="regular file"):
                check_region_fd(fd, 1)
            os.close(fd)


def test_only_an_eventfd_is_an_eventfd() -> None:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as file:
        for fd in (reading, writing, file.fileno()):
            with pytest.raises(RemoteProtocolError, match="instead of an eventfd"):
                check_event_fd(fd)
    os.close(reading)
    os.close(writing)


def test_an_eventfd_that_blocks_blocks_no_more() -> None:
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    check_event_fd(fd)
    assert not os.get_blocking(fd)
    os.close(fd)
