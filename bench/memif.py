"""memif to memif through vwire, dpdk-testpmd `io`, and a bare copy loop in the same place.

Source and sink are one light process on CPU 0; the forwarder has CPU 1 to itself. The three
forwarders stay connected all the time, and stopped (SIGSTOP) but for the one whose slice it is.
A slice counts only if the cache-line probes before and after it agree, and generator and forwarder
both had their CPU: never for its throughput.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.programs import compiled, running, wait_line
from bench.results import Row, row

GENERATOR_CPU, FORWARDER_CPU = 0, 1
LOG2_RING = 10
SIZES = (64, 1500)
NEAR_NS, FAR_NS = 150.0, 200.0
CPU_SHARE = 0.93
WARM_MS, RUN_MS = 25, 80
GOALS = {("testpmd", 64): ">= 1.0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One forwarder's turn."""

    forwarder: str
    frame_bytes: int
    mpps: float
    ns_per_frame: float
    probes_ns: tuple[float, float]
    generator_share: float
    forwarder_share: float

    @property
    def regime(self) -> str:
        """How far apart the CPUs were, or "" when the probes disagree or a program lacked its CPU."""
        if min(self.generator_share, self.forwarder_share) < CPU_SHARE:
            return ""
        if max(self.probes_ns) < NEAR_NS:
            return "near"
        return "far" if min(self.probes_ns) > FAR_NS else ""


@contextmanager
def huge_pages(count: int) -> Iterator[bool]:
    """Reserves 2 MiB pages for testpmd, as its users do; gives back what was there before."""
    setting = Path("/proc/sys/vm/nr_hugepages")
    before = int(setting.read_text())
    try:
        if before < count:
            setting.write_text(str(count))
        yield int(setting.read_text()) >= count
    finally:
        setting.write_text(str(before))


def testpmd_command(sockets: list[str], huge: bool) -> list[str]:
    """Returns dpdk-testpmd as a cross-connect between two memif servers."""
    program = shutil.which("dpdk-testpmd") or "dpdk-testpmd"
    memory = ["--in-memory", "-m", "192"] if huge else ["--no-huge", "-m", "192"]
    vdevs = [
        f"--vdev=net_memif{n},role=server,id=0,socket={socket},socket-abstract=no,rsize={LOG2_RING},bsize=2048"
        for n, socket in enumerate(sockets)
    ]
    lcores = f"--lcores=0@{FORWARDER_CPU},1@{FORWARDER_CPU}"
    application = ["--", "--total-num-mbufs=16384", "--forward-mode=io", "--no-lsc-interrupt"]
    return [program, lcores, "--no-pci", f"--file-prefix=bench{os.getpid()}", *memory, *vdevs, *application]


class Generator:
    """The generator process and its commands."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def ask(self, *words: object) -> list[float]:
        """Sends one command and returns the numbers of its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return [float(word) for word in wait_line(self._process, str(words[0]), self._log).split()[1:]]

    def slice(self, name: str, pid: int, frame_bytes: int) -> Slice:
        """Runs one slice; the forwarder runs only meanwhile."""
        (before,) = self.ask("probe")
        os.kill(pid, signal.SIGCONT)
        try:
            frames, count, _sent, wall, own, other = self.ask("slice", name, pid, frame_bytes, WARM_MS, RUN_MS)
        finally:
            os.kill(pid, signal.SIGSTOP)
        (after,) = self.ask("probe")
        if frames and not 0.98 <= count / (frames * frame_bytes) <= 1.02:
            raise RuntimeError(f"{name}: {frames:.0f} frames of {frame_bytes} bytes arrived with {count:.0f} bytes")
        return Slice(
            forwarder=name,
            frame_bytes=frame_bytes,
            mpps=frames / wall * 1e3,
            ns_per_frame=wall / max(frames, 1),
            probes_ns=(before, after),
            generator_share=own / wall,
            forwarder_share=other / wall,
        )


FORWARDERS = ("vwire", "testpmd", "bare-copy")


def command(name: str, sockets: list[str], huge: bool) -> list[str]:
    """Returns the command line of a forwarder between two sockets on which it listens."""
    match name:
        case "vwire":
            return [sys.executable, "-m", "bench.memif_forwarder", str(FORWARDER_CPU), *sockets]
        case "testpmd":
            return testpmd_command(sockets, huge)
        case _:
            return [compiled("copy_loop"), str(FORWARDER_CPU), *sockets]


def measure(*, seconds: float, forwarders: Sequence[str] = FORWARDERS) -> list[Slice]:
    """Interleaves slices of all forwarders for about `seconds`."""
    slices: list[Slice] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        huge = stack.enter_context(huge_pages(128))
        print(f"testpmd has {'2 MiB' if huge else 'no huge'} pages", flush=True)
        log = scratch / "generator.log"
        generator_command = [compiled("generator"), str(GENERATOR_CPU), str(FORWARDER_CPU), str(LOG2_RING)]
        generator = Generator(stack.enter_context(running(generator_command, log)), log)
        pids = {}
        for name in forwarders:
            log = scratch / f"{name}.log"
            sockets = [str(scratch / f"{name}-{end}") for end in "ab"]
            settings = {"env": os.environ | {"RUNTIME_DIRECTORY": str(scratch)}, "stdout": subprocess.DEVNULL}
            process = stack.enter_context(running(command(name, sockets, huge), log, **settings))
            generator.ask("open", name, *sockets)  # tries until it listens
            os.kill(process.pid, signal.SIGSTOP)
            pids[name] = process.pid
        deadline = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < deadline:
            first = turn % len(forwarders)
            for frame_bytes in SIZES:
                order = (*forwarders[first:], *forwarders[:first])
                slices += [generator.slice(name, pids[name], frame_bytes) for name in order]
            turn += 1
    return slices


def rows(slices: list[Slice]) -> list[Row]:
    """Sorts slices by regime and compares medians within each."""
    by: dict[tuple[str, int, str], list[Slice]] = defaultdict(list)
    for one in slices:
        by[one.regime, one.frame_bytes, one.forwarder].append(one)
    made = []
    for regime in ("near", "far"):
        for frame_bytes in SIZES:
            ours = by[regime, frame_bytes, "vwire"]
            for other in ("testpmd", "bare-copy"):
                theirs = by[regime, frame_bytes, other]
                if len(ours) < 3 or len(theirs) < 3:
                    continue
                made.append(
                    row(
                        f"memif-memif-{frame_bytes}B-vs-{other}",
                        "Mpps",
                        [s.mpps for s in ours],
                        baseline={"testpmd": "dpdk-testpmd io"}.get(other, "bare copy loop"),
                        baseline_samples=[s.mpps for s in theirs],
                        goal=GOALS.get((other, frame_bytes), ""),
                        regime=regime,
                        ns_per_frame=float(f"{sorted(s.ns_per_frame for s in ours)[len(ours) // 2]:.3g}"),
                    )
                )
    return made


def run(*, quick: bool) -> list[Row]:
    """Measures and says how many slices were kept."""
    slices = measure(seconds=30 if quick else 120)
    kept = [one for one in slices if one.regime]
    print(f"{len(kept)} of {len(slices)} slices kept")
    starved = sum(min(one.generator_share, one.forwarder_share) < CPU_SHARE for one in slices)
    print(f"rejected: {starved} that lacked their CPU, {len(slices) - len(kept) - starved} whose probes disagree")
    return rows(slices)
