"""What a test must leave as it found it, and how the difference is told.

Everything here reads the process and the kernel from outside (procfs, the `ip` program), so that
it does not depend on the code under test.
"""

import gc
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from tests.support.netns import plain_environment

# gRPC keeps its event engine and its completion queue's poller once they have been used.
_GRPC_THREADS = ("event_engine", "grpc_", "default-executo", "resolver-execut", "lifeguard", "timer_manager")
_GRPC_PYTHON_THREADS = ("_poll_wrapper",)

_IP_COMMANDS = """
ip -o link show; echo ===
ip -o address show; echo ===
ip -4 route show table all; ip -6 route show table all; echo ===
ip -4 rule show; ip -6 rule show; echo ===
ip neighbour show nud permanent
"""
_CHANGES_BY_ITSELF = re.compile(
    r"(valid_lft|preferred_lft|expires|pref) \S+|\\|(state|qlen|qdisc) \S+|<[^>]*>|(?<=[ ]) +"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a test could leave behind, each thing as a line of text with its count."""

    descriptors: Counter[str]
    mappings: Counter[str]
    threads: Counter[str]
    children: Counter[str]
    links: Counter[str]
    addresses: Counter[str]
    routes: Counter[str]
    rules: Counter[str]
    neighbours: Counter[str]
    namespaces: Counter[str]
    sockets: Counter[str]
    core: Counter[str]

    def added_since(self, before: "Snapshot") -> list[str]:
        """Returns a line for everything that is here and was not in `before`.

        What has gone counts too where the kernel's configuration is concerned: a test must not
        remove what it did not make.
        """
        lines = []
        for field in fields(self):
            was, now = getattr(before, field.name), getattr(self, field.name)
            lines += [f"+ {field.name}: {_times(what, n)}" for what, n in sorted((now - was).items())]
            if field.name in {"links", "addresses", "routes", "rules", "namespaces"}:
                lines += [f"- {field.name}: {_times(what, n)}" for what, n in sorted((was - now).items())]
        return lines


def _times(what: str, count: int) -> str:
    return what if count == 1 else f"{what} ({count} times)"


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own
            continue
        if target.startswith("socket:"):
            target = f"socket {_socket_name(int(target[8:-1]))}"
        elif target.startswith("pipe:"):
            target = "pipe"
        found[target.split("?")[0]] += 1
    return found


def _socket_name(inode: int) -> str:
    return _socket_names().get(inode, "of another kind")


def _socket_names() -> dict[int, str]:
    names = {}
    for line in _lines("/proc/self/net/unix")[1:]:
        words = line.split()
        names[int(words[6])] = f"unix {words[7] if len(words) > 7 else '(unnamed)'}"
    for kind in ("tcp", "tcp6", "udp", "udp6", "packet", "netlink"):
        for line in _lines(f"/proc/self/net/{kind}")[1:]:
            words = line.split()
            names[int(words[8 if kind == "packet" else 9])] = kind
    return names


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines() or [""]
    except FileNotFoundError:
        return [""]


def _mappings() -> Counter[str]:
    names = (line.split(maxsplit=5)[5:] for line in _lines("/proc/self/maps"))
    return Counter(name[0] for name in names if name and name[0].startswith(("/memfd:", "socket:", "anon_inode:")))


def _threads() -> Counter[str]:
    found = Counter(
        f"python thread {thread.name}"
        for thread in threading.enumerate()
        if not any(name in thread.name for name in _GRPC_PYTHON_THREADS)
    )
    known = {thread.native_id for thread in threading.enumerate()}
    for task in os.listdir("/proc/self/task"):
        name = _lines(f"/proc/self/task/{task}/comm")[0]
        if int(task) not in known and name and not name.startswith(_GRPC_THREADS):
            found[f"thread {name}"] += 1
    return found


def _children() -> Counter[str]:
    pids = " ".join(_lines(f"/proc/self/task/{task}/children")[0] for task in os.listdir("/proc/self/task"))
    return Counter(
        _lines(f"/proc/{pid}/cmdline")[0].replace("\0", " ").strip() or f"pid {pid} (ended, nobody waited for it)"
        for pid in pids.split()
    )


def _kernel() -> list[Counter[str]]:
    command = ["sh", "-c", _IP_COMMANDS]
    told = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, check=False).stdout
    return [
        Counter(_CHANGES_BY_ITSELF.sub("", line).strip() for line in part.splitlines() if line.strip())
        for part in told.split("===\n")
    ]


def _listening() -> Counter[str]:
    """Unix sockets with a name in our network namespace, whoever holds them."""
    return Counter(
        words[7]
        for words in (line.split() for line in _lines("/proc/self/net/unix")[1:])
        if len(words) > 7 and words[3] == "00010000"
    )


def _namespaces() -> Counter[str]:
    return Counter(os.listdir("/run/netns") if os.path.isdir("/run/netns") else [])


def core_allocations() -> Iterable[tuple[str, int]]:
    """What the compiled core has allocated and not freed, by kind."""
    try:
        from forwarder.dataplane import allocations  # noqa: PLC0415 - the core may not be built
    except ImportError:
        return ()
    return [(f"{kind} allocated by the core", count) for kind, count in allocations().items()]


def snapshot() -> Snapshot:
    """Looks at this process and at its network namespace."""
    children = _children()
    links, addresses, routes, rules, neighbours = _kernel()
    return Snapshot(
        descriptors=_descriptors(),
        mappings=_mappings(),
        threads=_threads(),
        children=children,
        links=links,
        addresses=addresses,
        routes=routes,
        rules=rules,
        neighbours=neighbours,
        namespaces=_namespaces(),
        sockets=_listening(),
        core=Counter(dict(core_allocations())),
    )


def leaks(before: Snapshot, *, patience_s: float = 3.0, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """Returns what is there now and was not `before`, one line each; empty when all is gone.

    The kernel finishes some work (a namespace's links, an exiting thread) after the call that
    started it has returned, so a difference is looked at again for `patience_s`.
    """
    deadline = clock() + patience_s
    pause_s = 0.002
    while True:
        found = snapshot().added_since(before)
        if not found:
            return []
        gc.collect()
        if clock() > deadline:
            return found
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.2)
