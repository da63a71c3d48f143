"""Namespaces are held, entered by other threads only, named, and found by inode."""

import asyncio
import errno
import gc
import os
import socket
import threading
import warnings

import pytest

from forwarder import netns as namespaces
from forwarder.errors import NetlinkError
from forwarder.netns import Netns, call_in, run_in
from tests.support.netns import Netns as Scratch


def where() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


@pytest.fixture
def pod():
    with Netns.create() as made:
        yield made


def test_a_new_namespace_is_another_one(pod):
    assert pod.identity[1] != where()
    assert call_in(pod, where) == pod.identity[1]


def test_the_calling_thread_stays_where_it_is(pod):
    before = where()
    call_in(pod, where)
    assert where() == before


async def test_the_loop_runs_on_while_a_thread_is_inside(pod):
    turns = 0
    inside, leave = threading.Event(), threading.Event()

    def wait() -> int:
        inside.set()
        leave.wait()
        return where()

    work = asyncio.ensure_future(run_in(pod, wait))
    await asyncio.to_thread(inside.wait)
    for _ in range(10):
        turns += 1
        await asyncio.sleep(0)
    leave.set()
    assert await work == pod.identity[1]
    assert turns == 10


async def test_a_failure_inside_reaches_the_caller(pod):
    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        await run_in(pod, fail)


async def test_a_cancelled_caller_leaves_nothing_running_and_nothing_open(pod):
    inside, leave = threading.Event(), threading.Event()
    opened: list[socket.socket] = []

    def open_slowly() -> socket.socket:
        opened.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        inside.set()
        leave.wait()
        return opened[0]

    work = asyncio.ensure_future(run_in(pod, open_slowly, discard=socket.socket.close))
    await asyncio.to_thread(inside.wait)
    work.cancel()
    await asyncio.sleep(0)
    work.cancel()
    await asyncio.sleep(0)
    assert not work.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert opened[0].fileno() == -1


def test_a_socket_opened_inside_stays_inside(pod):
    with call_in(pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as inside:
        # the loopback of a new namespace is down
        assert inside.connect_ex(("127.0.0.1", 9)) == errno.ENETUNREACH


def test_a_namespace_is_found_by_process_path_and_inode(netns: Scratch):
    with Netns.of_pid(os.getpid()) as own, Netns.current() as current:
        assert own.identity == current.identity
    with Netns.at_path(netns.path) as other:
        assert other.identity[1] == netns.inode
    with netns.process("sleep", "60") as inside:
        # nsenter has entered once its namespace differs
        while os.stat(f"/proc/{inside.pid}/ns/net").st_ino != netns.inode:
            pass
        with Netns.of_inode(os.fstat(netns.fd).st_dev, netns.inode) as found:
            assert found.identity[1] == netns.inode


def test_an_inode_that_nobody_has_is_not_found(pod):
    with pytest.raises(NetlinkError, match="inode://") as caught:
        Netns.of_inode(*pod.identity)
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/ns/mnt", "/etc/passwd", "/proc"])
def test_what_is_no_network_namespace_is_refused(path):
    with pytest.raises(NetlinkError, match=path) as caught:
        Netns.at_path(path)
    assert caught.value.errno == errno.EINVAL


def test_a_pipe_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NetlinkError):
        Netns.at_path(str(tmp_path / "pipe"))


def test_closing_twice_is_safe_and_using_it_later_says_so():
    made = Netns.create()
    made.close()
    made.close()
    assert made.closed
    with pytest.raises(NetlinkError, match="closed"):
        call_in(made, where)


def test_one_collected_while_open_is_told():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Netns.create()
        gc.collect()
    assert [each.category for each in told] == [ResourceWarning]


def test_a_named_namespace_is_known_to_the_ip_program_until_its_name_goes():
    with Netns.create_named("vw-test"):
        assert namespaces.named() == ["vw-test"]
        with Netns.named("vw-test") as again, Netns.current() as own:
            assert again.identity != own.identity
        with pytest.raises(NetlinkError) as caught:
            Netns.create_named("vw-test")
        assert caught.value.errno == errno.EEXIST
    namespaces.remove_name("vw-test")
    namespaces.remove_name("vw-test")
    assert namespaces.named() == []


def test_a_plain_file_among_the_names_is_removed_too():
    (namespaces.NAMED_DIRECTORY / "vw-broken").touch()
    namespaces.remove_name("vw-broken")
    assert namespaces.named() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "x" * 256])
def test_a_name_that_is_no_file_name_is_refused(name):
    for call in (Netns.create_named, Netns.named, namespaces.remove_name):
        with pytest.raises(NetlinkError):
            call(name)
