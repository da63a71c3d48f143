"""Forwarders that take turns in short slices, and which slices count (README)."""

import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import testpmd
from bench.programs import Driven, compiled, driven, running
from bench.run import in_turn
from bench.trees import Tree

GENERATOR_CPU, FORWARDER_CPU = 0, 1
NEAR_NS, FAR_NS = 150.0, 200.0
CPU_SHARE = 0.93
WARM_MS, RUN_MS = 25, 80
REPEATS = 5
"""Slices of each kind without which a figure is not given."""
OVERTIME = 2.0
"""How much longer to go on, as a factor, when too few slices count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One forwarder's turn."""

    contestant: str
    variant: str
    figures: Mapping[str, float]
    probes_ns: tuple[float, float]
    """The round trip of a cache line before and after."""
    shares: Sequence[float]
    """CPU time over wall time of all who should have had a CPU."""

    @property
    def starved(self) -> bool:
        """Whether somebody lacked their CPU."""
        return min(self.shares, default=1.0) < CPU_SHARE

    @property
    def regime(self) -> str:
        """How far apart the CPUs were, or "" for a slice that does not count."""
        if self.starved:
            return ""
        if max(self.probes_ns) < NEAR_NS:
            return "near"
        return "far" if min(self.probes_ns) > FAR_NS else ""


class Field:
    """The generator, and forwarders that are stopped but for the one whose turn it is."""

    def __init__(self, stack: ExitStack, scratch: Path, generator: Driven, log2_ring: int) -> None:
        self.scratch, self.generator, self.log2_ring = scratch, generator, log2_ring
        self._stack = stack
        self.pids: dict[str, int] = {}

    def log(self, name: str) -> Path:
        """Returns where a program's messages go."""
        return self.scratch / f"{slug(name)}.log"

    def sockets(self, name: str) -> list[str]:
        """Returns the two sockets of a contestant's first vWire."""
        folder = self.scratch / slug(name)
        folder.mkdir(exist_ok=True)
        return [f"{folder}/0-{end}" for end in "ab"]

    def program(self, name: str, command: Sequence[str]) -> None:
        """Starts a forwarder that listens on `sockets(name)`, connects to it, and stops it."""
        settings = {"env": testpmd.environment(self.scratch), "stdout": subprocess.DEVNULL}
        process = self._stack.enter_context(running(command, self.log(name), **settings))
        self.generator.ask("open", slug(name), *self.sockets(name))  # tries until it listens
        self.generator.ask("through", slug(name))
        self.hold(name, process.pid)

    def vwire(self, tree: Tree, name: str = "", *, vwires: int = 1, arguments: Sequence[str] = ()) -> Driven:
        """Starts a data plane of ours with vWires between memif servers, connects, and stops it."""
        name = name or tree.name
        command = tree.ours("vwires", "--cpu", str(FORWARDER_CPU), *arguments)
        ours = self._stack.enter_context(driven(command, self.log(name), env=tree.environment()))
        ours.answer("ready")
        folder = Path(self.sockets(name)[0]).parent
        ours.tell("servers", folder, 0, vwires, self.log2_ring)
        for number in range(vwires):
            self.generator.ask("open", slug(name), *(f"{folder}/{number}-{end}" for end in "ab"))
        ours.answer("servers")
        self.generator.ask("through", slug(name))
        self.hold(name, ours.pid)
        return ours

    def hold(self, name: str, pid: int) -> None:
        """Stops a contestant until its turn comes."""
        os.kill(pid, signal.SIGSTOP)
        self.pids[name] = pid

    @contextmanager
    def released(self, name: str) -> Iterator[int]:
        """Lets a contestant run."""
        os.kill(self.pids[name], signal.SIGCONT)
        try:
            yield self.pids[name]
        finally:
            os.kill(self.pids[name], signal.SIGSTOP)

    def probe(self) -> float:
        """Returns the round trip of a cache line between the two CPUs, in ns."""
        return self.generator.ask("probe")[0]

    def throughput(self, name: str, variant: str, frame_bytes: int, ways: int) -> Slice:
        """Runs a slice of full load."""
        before = self.probe()
        with self.released(name) as pid:
            words = ("slice", slug(name), pid, frame_bytes, ways, WARM_MS, RUN_MS)
            frames, count, wall, own, other = self.generator.ask(*words)
        if frames and not 0.98 <= count / (frames * frame_bytes) <= 1.02:
            raise RuntimeError(f"{name}: {frames:.0f} frames of {frame_bytes} bytes arrived with {count:.0f} bytes")
        return Slice(
            contestant=name,
            variant=variant,
            figures={"mpps": frames / wall * 1e3},
            probes_ns=(before, self.probe()),
            shares=(own / wall, other / wall),
        )

    def latency(self, name: str, frame_bytes: int) -> Slice:
        """Runs a slice with one frame in flight."""
        before = self.probe()
        with self.released(name) as pid:
            words = ("latency", slug(name), pid, frame_bytes, WARM_MS, RUN_MS)
            _n, lost, p50, p99, wall, own, other = self.generator.ask(*words)
        if lost:
            raise RuntimeError(f"{name}: {lost:.0f} frames did not arrive, each the only one in flight")
        return Slice(
            contestant=name,
            variant="",
            figures={"p50": p50 / 1e3, "p99": p99 / 1e3},
            probes_ns=(before, self.probe()),
            shares=(own / wall, other / wall),
        )


def slug(name: str) -> str:
    """Returns a name without blanks and of at most 31 letters, for the generator's commands and for files."""
    plain = "".join(character if character.isalnum() else "-" for character in name)
    return plain if len(plain) <= 31 else f"{plain[:22]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextmanager
def field(*, log2_ring: int) -> Iterator[Field]:
    """Starts the generator."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        command = [compiled("generator"), str(GENERATOR_CPU), str(FORWARDER_CPU), str(log2_ring)]
        generator = stack.enter_context(driven(command, scratch / "generator.log"))
        yield Field(stack, scratch, generator, log2_ring)


Figures = Mapping[tuple[str, str], Mapping[str, Sequence[Slice]]]
"""The slices that count, by variant and regime, and by contestant."""


def interleave(
    variants: Sequence[str], contestants: Sequence[str], one: Callable[[str, str], Slice], *, seconds: float
) -> Figures:
    """Takes slices in turns and returns those that count, for every variant and regime that has enough.

    Goes on for longer when no regime has enough of every variant yet.
    """
    slices: list[Slice] = []
    start, turn = time.monotonic(), 0
    while (now := time.monotonic() - start) < seconds or (
        now < OVERTIME * seconds and {variant for variant, _ in enough(slices, contestants)} != set(variants)
    ):
        for variant in variants:
            slices += [one(name, variant) for name in in_turn(contestants, turn)]
        turn += 1
    kept = sum(bool(each.regime) for each in slices)
    starved = sum(each.starved for each in slices)
    unsteady = len(slices) - kept - starved
    print(f"{kept} of {len(slices)} slices count; {starved} lacked their CPU, {unsteady} had probes that disagree")
    found = enough(slices, contestants)
    if lacking := sorted(set(variants) - {variant for variant, _ in found}):
        print(f"fewer than {REPEATS} slices of each forwarder count, so no figure: {', '.join(lacking)}")
    if not found:
        raise RuntimeError(f"fewer than {REPEATS} slices of each kind count: the machine is too busy")
    return found


def enough(slices: Sequence[Slice], contestants: Sequence[str]) -> Figures:
    """Sorts slices, and leaves out what has too few of any contestant."""
    by: dict[tuple[str, str], dict[str, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    for each in slices:
        if each.regime:
            by[each.variant, each.regime][each.contestant].append(each)
    return {
        key: found
        for key, found in sorted(by.items(), key=lambda item: (item[0][0], item[0][1] != "near"))
        if all(len(found[name]) >= REPEATS for name in contestants)
    }


def figures(found: Mapping[str, Sequence[Slice]], name: str) -> dict[str, list[float]]:
    """Returns one figure of all slices, by contestant."""
    return {contestant: [each.figures[name] for each in slices] for contestant, slices in found.items()}
