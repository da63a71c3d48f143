"""Network namespaces without names, and the links between them.

A namespace is made by a thread that exists only for that, and lives as long as somebody holds
its descriptor: nothing is left on disk, and the calling thread never leaves its own namespace.
"""

import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


def plain_environment() -> dict[str, str]:
    """The environment for programs that are not ours: without the sanitizers' libraries."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Moves the calling thread into new namespaces."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int) -> None:
    """Moves the calling thread into the network namespace that `fd` refers to."""
    _check(_libc.setns(fd, CLONE_NEWNET), f"setns({fd})")


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    """Mounts `source` on `target` in the calling thread's mount namespace."""
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, None), f"mount {target}")


def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` on a thread made for it and returns, or raises, what it did."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


class Netns:
    """A network namespace held by its descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def inode(self) -> int:
        """The namespace's inode number, as in /proc/PID/ns/net."""
        return os.fstat(self.fd).st_ino

    @property
    def path(self) -> str:
        """A path that other processes can open for as long as this one holds the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def call(self, work: Callable[[], T]) -> T:
        """Runs `work` on a short thread that has entered the namespace."""

        def enter() -> T:
            setns(self.fd)
            return work()

        return in_thread(enter)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Opens a socket that belongs to the namespace."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def argv(self, *command: str) -> list[str]:
        """Returns the command line that runs `command` inside; start it with pass_fds=(netns.fd,)."""
        return ["nsenter", f"--net=/proc/self/fd/{self.fd}", "--", *command]

    def run(self, *command: str, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs `command` inside and returns its outcome; a failure shows its output."""
        done = subprocess.run(
            self.argv(*command),
            pass_fds=(self.fd,),
            env=plain_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def json(self, *command: str) -> Any:
        """Runs `command`, which prints JSON, inside."""
        return json.loads(self.run(*command).stdout or "[]")

    @contextmanager
    def process(self, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Runs `command` inside for as long as the context lasts."""
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        } | options
        with subprocess.Popen(self.argv(*command), pass_fds=(self.fd,), text=True, **options) as process:
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def links(self) -> dict[str, dict[str, Any]]:
        """Returns the namespace's links by name, as `ip -j -d addr` tells them."""
        return {link["ifname"]: link for link in self.json("ip", "-j", "-d", "addr", "show") if link}

    def ifindex(self, name: str) -> int:
        """Returns the index of a link."""
        return self.call(lambda: socket.if_nametoindex(name))


def _make() -> int:
    unshare(CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def network_namespace(*, loopback: bool = True) -> Iterator[Netns]:
    """Makes a namespace for as long as the context lasts."""
    netns = Netns(in_thread(_make))
    try:
        if loopback:
            netns.run("ip", "link", "set", "lo", "up")
        yield netns
    finally:
        os.close(netns.fd)


@contextmanager
def network_namespaces(count: int) -> Iterator[list[Netns]]:
    """Makes several namespaces."""
    with ExitStack() as stack:
        yield [stack.enter_context(network_namespace()) for _ in range(count)]


def veth_pair(
    a: Netns,
    b: Netns,
    *,
    names: tuple[str, str] = ("veth-a", "veth-b"),
    addresses: tuple[Sequence[str], Sequence[str]] = ((), ()),
    mtu: int = 1500,
) -> None:
    """Joins two namespaces by a veth pair, both ends up; it goes when either namespace goes.

    `addresses` are prefixes such as "10.0.0.1/30" or "2001:db8::1/64" for each end; IPv6 ones skip
    duplicate address detection so that they can be used at once.
    """
    command = [
        "ip",
        "link",
        "add",
        names[0],
        "mtu",
        str(mtu),
        "netns",
        f"/proc/self/fd/{a.fd}",
        "type",
        "veth",
    ]
    command += ["peer", "name", names[1], "mtu", str(mtu), "netns", f"/proc/self/fd/{b.fd}"]
    subprocess.run(command, pass_fds=(a.fd, b.fd), env=plain_environment(), check=True)
    for netns, name, own in ((a, names[0], addresses[0]), (b, names[1], addresses[1])):
        for address in own:
            flags = ("nodad",) if ":" in address else ()
            netns.run("ip", "address", "add", address, "dev", name, *flags)
        netns.run("ip", "link", "set", name, "up")


def isolate_process() -> None:
    """Moves the calling process, which must have one thread yet, into namespaces of its own.

    A new network namespace with its loopback up, and a mount namespace whose /run/netns is its own:
    tests neither see nor touch the machine's links and named namespaces, and two runs do not
    disturb each other. Raises OSError (EPERM) without the privilege.
    """
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    mount("none", "/", "none", MS_REC | MS_PRIVATE)
    os.makedirs("/run/netns", exist_ok=True)
    mount("tmpfs", "/run/netns", "tmpfs")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
