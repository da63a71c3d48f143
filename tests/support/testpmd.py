"""Runs DPDK's testpmd as a memif peer: started, spoken to, and gone again with all it left.

It polls: it takes a whole CPU for as long as it lives, so tests keep it short. Both of its threads
share one CPU.
"""

import os
import queue
import re
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.netns import Netns
from tests.support.peers import require_program

_PROMPT = "testpmd>"


class Testpmd:
    """A running testpmd, echoing every frame that it receives on its one port."""

    __test__ = False  # not a test, whatever its name

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.output = ""
        self._reader = threading.Thread(target=self._read, name="testpmd output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            self._lines.put(chunk.decode(errors="replace"))
        self._lines.put(None)

    def wait_for(self, text: str, timeout_s: float = 15.0) -> str:
        """Waits until `text` appears in what is printed from now on; returns what came until then."""
        deadline = time.monotonic() + timeout_s
        seen = ""
        while text not in seen:
            try:
                chunk = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"testpmd did not print {text!r} in {timeout_s} s:\n{self.output}") from None
            if chunk is None:
                raise AssertionError(f"testpmd ended:\n{self.output}")
            seen += chunk
            self.output += chunk
        return seen

    def command(self, line: str) -> str:
        """Gives a command and returns what it printed."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.wait_for(_PROMPT)

    def link_up(self) -> bool:
        """Says whether its port is connected."""
        return re.search(r"Link status: up", self.command("show port info 0")) is not None

    def wait_link(self, up: bool = True, timeout_s: float = 5.0) -> None:
        """Waits for the link's state."""
        deadline = time.monotonic() + timeout_s
        while self.link_up() is not up:
            if time.monotonic() > deadline:
                raise AssertionError(f"testpmd's link is not {'up' if up else 'down'}:\n{self.output}")
            time.sleep(0.02)

    def stats(self) -> dict[str, int]:
        """Returns its port's counters by the names that it prints."""
        text = self.command("show port stats 0")
        return {name: int(value) for name, value in re.findall(r"([RT]X-\w+):\s+(\d+)", text)}

    def kill(self) -> None:
        """Kills it without a chance to say anything."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_testpmd(
    vdev: str,
    *,
    netns: Netns | None = None,
    cpu: int = 1,
    mode: str = "io",
    eal: tuple[str, ...] = (),
    queues: int = 1,
) -> Iterator[Testpmd]:
    """Runs testpmd with one memif port, `vdev` being its arguments: "role=server,socket=...".

    Inside `netns`, or our own.
    Skips the test when it is not installed. It has started to forward when the context is entered.
    """
    program = require_program("dpdk-testpmd", package="dpdk-dev")
    cpus = sorted(os.sched_getaffinity(0))
    chosen = cpus[cpu % len(cpus)]
    prefix = f"vwire-{os.getpid()}-{secrets.token_hex(4)}"
    command = [
        "stdbuf",  # its answers would otherwise stay in a buffer behind the prompt
        "-oL",
        program,
        "--no-huge",
        "-m",
        "128",
        "--no-pci",
        "--no-telemetry",
        f"--lcores=0@{chosen},1@{chosen}",
        f"--file-prefix={prefix}",
        *eal,
        f"--vdev=net_memif0,{vdev}",
        "--",
        "-i",
        f"--forward-mode={mode}",
        "--total-num-mbufs=8192",
        f"--rxq={queues}",
        f"--txq={queues}",
        "--no-lsc-interrupt",
        "--disable-link-check",  # else it waits nine seconds for the link before it talks
    ]
    process = subprocess.Popen(
        command if netns is None else netns.argv(*command),
        pass_fds=() if netns is None else (netns.fd,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    running = Testpmd(process)
    try:
        running.wait_for(_PROMPT)
        running.command("start")
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        running._reader.join()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        for directory in (Path("/var/run/dpdk"), Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "dpdk"):
            shutil.rmtree(directory / prefix, ignore_errors=True)
