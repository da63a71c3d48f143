"""What adding and removing vWires does to one that runs at full load: frames lost, longest silence.

64 byte frames from memif to memif, one way, as many as will pass. In every other slice vWires
with connected memif peers on both sides are added to the same data plane and removed again, one
after the other. The worker has CPU 1 to itself; generator, control and those peers share CPU 0,
where the generator comes last; time in which it had no CPU itself is left out of a silence. A slice
counts if the worker had to wait for its CPU for no more than half a millisecond. A frame is lost if
it was sent and has not arrived when nothing has arrived for a while; that is counted over all
slices. Here frames wait for room without limit and the worker never sleeps: or a generator without
CPU would cause losses, and waits, that are not the changes'.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bench.programs import Driven, compiled, driven, pinned_thread, waited_us
from bench.results import Measured
from bench.run import Run, in_turn
from bench.slices import FORWARDER_CPU, GENERATOR_CPU, OVERTIME, REPEATS, Field, field, slug

LOG2_RING = 10
FRAME_BYTES = 64
RUN_MS = 40
CHANGES = 6
WAITED_US = 500
"""Half of the stall that is allowed. Threads of the kernel alone take some 50 µs in a slice."""
QUIET = "the same without changes"


class Loaded:
    """A data plane of ours with one vWire at full load."""

    def __init__(self, place: Field, ours: Driven, name: str) -> None:
        self._place, self._ours, self._name = place, ours, name
        self._worker = pinned_thread(ours.pid, FORWARDER_CPU)
        self._missing = 0.0
        self._turn = 0

    def slice(self, *, changes: bool) -> tuple[float, float, bool, float]:
        """Returns longest silence in µs, frames lost, whether the worker kept its CPU, and changes made meanwhile."""
        self._turn += 1
        with self._place.released(self._name):
            if not changes:
                return (*self._load(), 0)
            folder = self._place.scratch / f"{slug(self._name)}-{self._turn}"
            folder.mkdir()
            peers = ["taskset", "-c", str(GENERATOR_CPU), compiled("clients"), str(folder), "0", str(CHANGES)]
            with driven(peers, self._place.log("clients")):
                self._ours.tell("churn", folder, CHANGES)
                loaded = self._load()
                (seconds,) = self._ours.answer("churn")
            return (*loaded, 2 * CHANGES * min(1.0, RUN_MS / 1e3 / seconds))

    def _load(self) -> tuple[float, float, bool]:
        before = waited_us(self._worker)
        sent, arrived, longest_ns, _looked = self._place.generator.ask("gap", slug(self._name), FRAME_BYTES, RUN_MS)
        kept = waited_us(self._worker) - before <= WAITED_US
        lost, self._missing = sent - arrived - self._missing, sent - arrived
        return longest_ns / 1e3, lost, kept


def enough(stall: Mapping[str, Sequence[float]], contestants: Sequence[str]) -> bool:
    """Says whether there are enough slices of everybody."""
    return all(len(stall[name]) >= REPEATS for name in contestants)


def run(run: Run) -> list[Measured]:
    """Alternates slices with and without changes."""
    stall: dict[str, list[float]] = defaultdict(list)
    lost: dict[str, list[float]] = defaultdict(list)
    made = 0.0
    with field(log2_ring=LOG2_RING) as place:
        os.setpriority(os.PRIO_PROCESS, place.generator.pid, 0)
        loaded = {}
        arguments = ["--control-cpu", str(GENERATOR_CPU), "--stall-limit-ms", "60000", "--poll-window-us", "1000000"]
        for tree in run.trees:
            ours = place.vwire(tree, arguments=arguments)
            loaded[tree.name] = Loaded(place, ours, tree.name)
        turn, turns = 0, run.times(100, 30)
        while turn < turns or (turn < OVERTIME * turns and not enough(stall, [*loaded, QUIET])):
            for name in in_turn(list(loaded), turn):
                for changes in (True, False):
                    silence_us, missing, counts, count = loaded[name].slice(changes=changes)
                    key = name if changes else QUIET
                    lost[key].append(missing)
                    made += count
                    if counts:
                        stall[key].append(silence_us)
            turn += 1
    kept = sum(map(len, stall.values()))
    print(f"{kept} of {2 * turn * len(loaded)} slices count; {made:.0f} changes under load")
    if not enough(stall, [*loaded, QUIET]):
        raise RuntimeError(f"fewer than {REPEATS} slices of each kind count: the machine is too busy")
    return [
        Measured(
            id="change-impact",
            unit="µs",
            samples=stall,
            baseline=QUIET,
            further={
                "lost_frames": {name: [sum(each)] for name, each in lost.items()},
                "worst": {name: [max(each)] for name, each in stall.items()},
            },
            direction="one way",
            note=f"{made:.0f} vWires added or removed under load; lost_frames is of all slices together",
        )
    ]
