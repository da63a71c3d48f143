"""Programs that a bench runs for as long as it needs them, and never longer."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.results import ROOT

NICE = -19
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
    """Compiles bench/NAME.c for this machine when it is newer than its program; returns the program."""
    source, program = ROOT / "bench" / f"{name}.c", BUILD / name
    header = ROOT / "bench" / "memif_peer.h"
    newest = max(source.stat().st_mtime, header.stat().st_mtime)
    if not program.exists() or program.stat().st_mtime < newest:
        BUILD.mkdir(parents=True, exist_ok=True)
        flags = ["-std=gnu11", "-O3", "-march=native", "-Wall", "-Wextra", "-pthread"]
        subprocess.run(["cc", *flags, str(source), "-o", str(program)], check=True)
    return str(program)


@contextmanager
def running(command: Sequence[str], log: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Runs a program with its standard input open; ends it, stopped or not, on leaving."""
    settings: dict[str, object] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with log.open("w") as told:
        process = subprocess.Popen(list(command), stderr=told, **(settings | options))  # type: ignore[call-overload]
        try:
            yield process
        finally:
            for sign in (signal.SIGCONT, signal.SIGTERM):
                if process.poll() is None:
                    os.kill(process.pid, sign)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None and not stream.closed:
                    stream.close()


def wait_line(process: subprocess.Popen[str], wanted: str, log: Path) -> str:
    """Reads the program's output up to the first line that starts with `wanted`, and returns it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(wanted):
            return line
    raise RuntimeError(
        f"{process.args}: ended with {process.wait()} before it said {wanted!r}\n{log.read_text()[-2000:]}"
    )
