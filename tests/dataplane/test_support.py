"""The tools of these tests, tested: namespaces, links, and a leak check that sees."""

import asyncio
import os
import socket
import subprocess
import threading

import pytest

from tests.support.leaks import leaks, snapshot
from tests.support.netns import Netns, network_namespace, veth_pair


def test_a_namespace_is_another_one_and_goes_when_closed() -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    with network_namespace() as made:
        assert made.inode != own
        assert os.stat("/proc/thread-self/ns/net").st_ino == own
        fd = made.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_socket_stays_in_the_namespace_it_was_opened_in(netns: Netns) -> None:
    veth_pair(netns, netns, names=("here", "there"))
    with netns.socket(socket.AF_PACKET, socket.SOCK_RAW) as inside:
        inside.bind(("here", 3))
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as outside,
        pytest.raises(OSError, match="No such device"),
    ):
        outside.bind(("here", 3))


def test_a_veth_pair_carries_ping_of_both_families(two_netns: tuple[Netns, Netns]) -> None:
    a, b = two_netns
    veth_pair(a, b, addresses=(["10.9.0.1/30", "2001:db8:9::1/64"], ["10.9.0.2/30", "2001:db8:9::2/64"]))
    a.run("ping", "-c1", "-W5", "10.9.0.2")
    b.run("ping", "-c1", "-W5", "2001:db8:9::1")


def _leave_descriptor() -> list[int]:
    return [os.open("/dev/null", os.O_RDONLY)]


def _leave_memfd() -> list[int]:
    return [os.memfd_create("left")]


def _leave_socket() -> list[int]:
    left = socket.socket(socket.AF_UNIX)
    left.bind("\0left-behind")
    left.listen()
    return [left.detach()]


@pytest.mark.parametrize(
    ("leave", "told"),
    [(_leave_descriptor, "/dev/null"), (_leave_memfd, "/memfd:left"), (_leave_socket, "left-behind")],
)
def test_the_leak_check_names_a_left_descriptor(leave, told: str) -> None:  # type: ignore[no-untyped-def]
    before = snapshot()
    fds = leave()
    assert any(told in line for line in leaks(before, patience_s=0))
    for fd in fds:
        os.close(fd)
    assert leaks(before) == []


def test_the_leak_check_names_a_left_link_and_what_hangs_on_it() -> None:
    before = snapshot()
    for command in (
        "link add left type veth peer name left-peer",
        "addr add 10.8.0.1/24 dev left",
        "link set left up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    found = leaks(before, patience_s=0)
    assert any(line.startswith("+ links") and "left" in line for line in found)
    assert any(line.startswith("+ addresses") and "10.8.0.1" in line for line in found)
    assert any(line.startswith("+ routes") and "10.8.0" in line for line in found)
    subprocess.run(["ip", "link", "del", "left"], check=True)
    assert leaks(before) == []


def test_the_leak_check_names_a_removed_route() -> None:
    subprocess.run(["ip", "route", "add", "blackhole", "10.7.0.0/16"], check=True)
    before = snapshot()
    subprocess.run(["ip", "route", "del", "blackhole", "10.7.0.0/16"], check=True)
    assert any(line.startswith("- routes") and "10.7.0.0/16" in line for line in leaks(before, patience_s=0))


def test_the_leak_check_names_a_left_thread_and_child() -> None:
    before = snapshot()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-thread")
    thread.start()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(b"started")
        assert child.stdout.read(7) == b"started"
        found = leaks(before, patience_s=0)
    stop.set()
    thread.join()
    assert any("left-thread" in line for line in found)
    assert "+ children: cat" in found
    assert leaks(before) == []


def test_the_leak_check_names_a_named_namespace() -> None:
    before = snapshot()
    subprocess.run(["ip", "netns", "add", "left"], check=True)
    found = leaks(before, patience_s=0)
    subprocess.run(["ip", "netns", "del", "left"], check=True)
    assert "+ namespaces: left" in found
    assert leaks(before) == []


async def test_a_coroutine_test_may_end_its_tasks() -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()


def test_a_task_left_running_fails_its_test(pytester_run) -> None:  # type: ignore[no-untyped-def]
    told = pytester_run(
        """
        import asyncio

        async def test_leaves_a_task():
            globals()["left"] = asyncio.create_task(asyncio.sleep(3600), name="left-task")
        """
    )
    assert "tasks left running" in told
    assert "left-task" in told
