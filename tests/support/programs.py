"""Running `vwire` as its users do: as a process, with its output, signals and exit status."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 100.0
"""Less than a test may take: a loaded machine is no failure."""


def command(*arguments: str) -> list[str]:
    """Returns the command line of `vwire ARGUMENT...`."""
    return [sys.executable, "-m", "forwarder", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """Returns the environment of a program: ours without settings, and `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NSM_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **variables}


def vwire(*arguments: str, timeout_s: float = PATIENCE_S, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `vwire` to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Program:
    """A program that runs, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="program output")
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything it printed, stdout and stderr."""
        with self._news:
            return "".join(self._lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, pattern: str, patience_s: float = PATIENCE_S) -> re.Match[str]:
        """Waits until the output has `pattern`, and returns the match."""
        deadline = time.monotonic() + patience_s
        with self._news:
            while True:
                if found := re.search(pattern, "".join(self._lines)):
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0 or not self._news.wait(left):
                    told = "".join(self._lines)
                    raise AssertionError(f"{self.process.args} did not print {pattern!r} but:\n{told}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, patience_s: float = PATIENCE_S) -> int:
        """Ends it by a signal, unless it has ended; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(patience_s)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextmanager
def running(*arguments: str, under: Sequence[str] = (), **variables: str) -> Iterator[Program]:
    """Runs `vwire` for as long as the context lasts, started by the command `under`, which execs it."""
    process = subprocess.Popen(
        [*under, *command(*arguments)],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    program = Program(process)
    try:
        yield program
    finally:
        try:
            program.end()
        except subprocess.TimeoutExpired:
            process.kill()
            program.end()
            raise
