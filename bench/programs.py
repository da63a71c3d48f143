"""Programs that a bench runs for as long as it needs them, and never longer."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.results import ROOT

NICE = -19
NATIVE = ROOT / "bench" / "native"
BUILD = ROOT / "build" / "bench"


@contextmanager
def first_in_line() -> Iterator[None]:
    """Gives this process and what it starts the CPUs before other work of the machine.

    Where the kernel groups processes by session, niceness counts only within the group; then the
    group is moved too.
    """
    group = Path("/proc/self/autogroup")
    before = os.getpriority(os.PRIO_PROCESS, 0)
    group_before = group.read_text().split()[-1] if group.exists() else ""
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    if group_before:
        group.write_text(str(NICE))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
        if group_before:
            group.write_text(group_before)


def compiled(name: str) -> str:
    """Compiles bench/native/NAME.c for this machine when it is newer than its program; returns the program."""
    source, program = NATIVE / f"{name}.c", BUILD / name
    newest = max(each.stat().st_mtime for each in (source, *NATIVE.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < newest:
        BUILD.mkdir(parents=True, exist_ok=True)
        flags = ["-std=gnu11", "-O3", "-march=native", "-Wall", "-Wextra", "-pthread"]
        subprocess.run(["cc", *flags, str(source), "-o", str(program)], check=True)
    return str(program)


def installed(name: str, package: str) -> str:
    """Returns the path of a peer's program. Raises RuntimeError that names its package when it is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise RuntimeError(f"{name} is missing (Debian package {package})")
    return path


@contextmanager
def running(command: Sequence[str], log: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Runs a program with its standard input open; ends it, stopped or not, on leaving.

    Nor does it outlive us when we are killed: some of these poll, and would do so for ever.
    """
    settings: dict[str, object] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    # Not by preexec_fn: then Python forks with all that was registered for it, and gRPC's part of that can hang.
    end_with_us = ("setpriv", "--pdeathsig", "KILL", "--")
    with log.open("w") as told:
        process = subprocess.Popen([*end_with_us, *command], stderr=told, **(settings | options))  # type: ignore[call-overload]
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str], patience_s: float = 10) -> None:
    """Ends a program and closes our ends of its pipes: kindly, then for certain."""
    for sign in (signal.SIGCONT, signal.SIGTERM):
        if process.poll() is None:
            os.kill(process.pid, sign)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                continue  # it ended before it read what we wrote last


def wait_line(process: subprocess.Popen[str], wanted: str, log: Path) -> str:
    """Reads the program's output up to the first line that starts with `wanted`, and returns it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(wanted):
            return line
    raise RuntimeError(
        f"{process.args}: ended with {process.wait()} before it said {wanted!r}\n{log.read_text()[-2000:]}"
    )


class Driven:
    """A program that takes one command a line and answers each by a line that starts with its first word."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def tell(self, *words: object) -> None:
        """Sends one command and does not wait."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def answer(self, word: str) -> list[float]:
        """Waits for the answer to a command and returns its numbers."""
        return [float(word) for word in wait_line(self.process, word, self._log).split()[1:]]

    def ask(self, *words: object) -> list[float]:
        """Sends one command and returns the numbers of its answer."""
        self.tell(*words)
        return self.answer(str(words[0]))


@contextmanager
def driven(command: Sequence[str], log: Path, **options: object) -> Iterator[Driven]:
    """Runs a program that takes commands."""
    with running(command, log, **options) as process:
        yield Driven(process, log)


def cpu_s(pid: int) -> float:
    """Returns the CPU time a process has had, all threads, to the nanosecond."""
    # The kernel's clock of another process: clock_getcpuclockid(3), which Python does not have.
    return time.clock_gettime(~pid << 3 | 2)


def pinned_thread(pid: int, cpu: int) -> int:
    """Returns the thread of a process that may run on one CPU only, this one."""
    threads = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return next(thread for thread in threads if os.sched_getaffinity(thread) == {cpu})


def waited_us(thread: int) -> float:
    """Returns how long a thread has been ready to run and had no CPU."""
    return int(Path(f"/proc/{thread}/schedstat").read_text().split()[1]) / 1e3


def status_kib(pid: int, *fields: str) -> list[int]:
    """Returns fields of /proc/PID/status that are in KiB, such as RssAnon."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = dict(line.split(":", 1) for line in lines)
    return [int(told[name].split()[0]) for name in fields]
