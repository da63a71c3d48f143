"""memif to memif with dpdk-testpmd at both ends, through vwire and through testpmd in our place.

One testpmd on CPU 0 is source and sink of both directions (flowgen, 64 bytes), the forwarder has
CPU 1. Each forwarder has ends of its own; all are stopped but for their turn. Frames are those
that the ends count as received.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import testpmd
from bench.programs import cpu_s, driven, running
from bench.results import Measured
from bench.run import Run
from bench.slices import FORWARDER_CPU, GENERATOR_CPU, Field, Slice, field, figures, interleave, slug

LOG2_RING = 10
WARM_S, RUN_S = 0.04, 0.1
START_S = 60


class Ends:
    """One testpmd that is both ends of a vWire."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.pid = process.pid
        self._process, self._log = process, log

    def ask(self, command: str) -> str:
        """Gives a command and returns what is printed up to the next prompt but one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n\n")  # an empty line prints a second prompt, whose line ends
        self._process.stdin.flush()
        return self._until_prompt(command)

    def wait_started(self) -> None:
        """Waits for the first prompt."""
        self.ask("help control")

    def _until_prompt(self, command: str) -> str:
        assert self._process.stdout is not None
        told: list[str] = []
        for line in self._process.stdout:
            told.append(line)
            if line.strip() == testpmd.PROMPT and any(command in each for each in told):
                return "".join(told)
        raise RuntimeError(f"testpmd ended with {self._process.wait()}:\n{''.join(told)[-2000:]}")

    def received(self) -> tuple[float, int]:
        """Returns when it was asked, and the frames received by then."""
        told = self.ask("show port stats all")
        return time.monotonic(), testpmd.received(told)


@contextmanager
def ends(place: Field, name: str) -> Iterator[Ends]:
    """Runs the ends of a forwarder that runs, connected and sending, for as long as the context lasts."""
    log = place.log(f"{name}-ends")
    command = testpmd.ends(slug(name), place.sockets(name), cpu=GENERATOR_CPU, log2_ring=LOG2_RING)
    with running(command, log, env=testpmd.environment(place.scratch)) as process:
        made = Ends(process, log)
        made.wait_started()
        made.ask("start")
        deadline = time.monotonic() + START_S
        while not made.received()[1]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name}: no frame came through in {START_S} s")
        os.kill(process.pid, signal.SIGSTOP)
        yield made


def turn(place: Field, name: str, its: Ends) -> Slice:
    """Lets a forwarder and its ends run for a slice."""
    before = place.probe()
    with place.released(name) as pid:
        os.kill(its.pid, signal.SIGCONT)
        try:
            time.sleep(WARM_S)
            cpu = [cpu_s(its.pid), cpu_s(pid)]
            started, first = its.received()
            time.sleep(RUN_S)
            ended, last = its.received()
            took = ended - started
            cpu = [now - then for now, then in zip((cpu_s(its.pid), cpu_s(pid)), cpu, strict=True)]
        finally:
            os.kill(its.pid, signal.SIGSTOP)
    return Slice(
        contestant=name,
        variant="",
        figures={"mpps": (last - first) / took / 1e6},
        probes_ns=(before, place.probe()),
        shares=[each / took for each in cpu],
    )


def run(run: Run) -> list[Measured]:
    """Interleaves all."""
    with testpmd.huge_pages() as huge, field(log2_ring=LOG2_RING) as place, ExitStack() as stack:
        pairs: dict[str, Ends] = {}
        for tree in run.trees:
            command = tree.ours("vwires", "--cpu", str(FORWARDER_CPU))
            ours = stack.enter_context(driven(command, place.log(tree.name), env=tree.environment()))
            ours.answer("ready")
            ours.tell("servers", Path(place.sockets(tree.name)[0]).parent, 0, 1, LOG2_RING)
            pairs[tree.name] = stack.enter_context(ends(place, tree.name))
            ours.answer("servers")
            place.hold(tree.name, ours.pid)
        sockets = place.sockets(testpmd.NAME)
        command = testpmd.cross_connect(sockets, cpu=FORWARDER_CPU, log2_ring=LOG2_RING, huge=huge)
        settings = {"env": testpmd.environment(place.scratch), "stdout": subprocess.DEVNULL}
        middle = stack.enter_context(running(command, place.log(testpmd.NAME), **settings))
        while not all(Path(socket).exists() for socket in sockets):
            if middle.poll() is not None:
                raise RuntimeError(f"testpmd ended:\n{place.log(testpmd.NAME).read_text()[-2000:]}")
            time.sleep(0.05)
        pairs[testpmd.NAME] = stack.enter_context(ends(place, testpmd.NAME))
        place.hold(testpmd.NAME, middle.pid)
        found = interleave([""], list(pairs), lambda name, _: turn(place, name, pairs[name]), seconds=run.times(45, 12))
    return [
        Measured(
            id="memif-testpmd-ends",
            unit="Mpps",
            samples=figures(slices, "mpps"),
            baseline=testpmd.NAME,
            regime=regime,
            direction="both ways",
            note="64 B frames; testpmd flowgen at both ends",
        )
        for (_, regime), slices in found.items()
    ]
