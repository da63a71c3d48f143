"""One frame in flight from memif to memif: the time from before it is written to after it was read.

Everybody polls. One way, 64 bytes; there is no way back. Measured in microseconds at the generator.
"""

from bench import testpmd
from bench.memif import COPY, LOG2_RING, peers
from bench.results import Measured
from bench.run import Run
from bench.slices import field, figures, interleave

FRAME_BYTES = 64


def run(run: Run) -> list[Measured]:
    """Interleaves all; p50 and p99 are those of each slice."""
    with testpmd.huge_pages() as huge, field(log2_ring=LOG2_RING) as place:
        for tree in run.trees:
            place.vwire(tree)
        names = [tree.name for tree in run.trees] + peers(place, huge)
        found = interleave([""], names, lambda name, _: place.latency(name, FRAME_BYTES), seconds=run.times(45, 12))
    return [
        Measured(
            id="memif-latency",
            unit="µs p50",
            samples=figures(slices, "p50"),
            baseline=testpmd.NAME,
            references={"copy": COPY},
            further={"p99": figures(slices, "p99")},
            regime=regime,
            direction="one way",
        )
        for (_, regime), slices in found.items()
    ]
