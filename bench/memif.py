"""memif to memif through vwire, dpdk-testpmd `io`, and a bare copy loop in the same place.

Source and sink are one light process on CPU 0; the forwarder has CPU 1 to itself. 64 and 1500
byte frames, one way and both ways at once.
"""

from bench import testpmd
from bench.programs import compiled
from bench.results import Measured
from bench.run import Run
from bench.slices import FORWARDER_CPU, Field, field, figures, interleave

LOG2_RING = 10
COPY = "bare copy loop"
SIZES = {"memif-memif-64": 64, "memif-memif-1500": 1500}
WAYS = {"one way": 1, "both ways": 2}


def peers(place: Field, huge: bool) -> list[str]:
    """Starts testpmd and the copy loop; returns their names."""
    command = testpmd.cross_connect(
        place.sockets(testpmd.NAME), cpu=FORWARDER_CPU, log2_ring=place.log2_ring, huge=huge
    )
    place.program(testpmd.NAME, command)
    place.program(COPY, [compiled("copy_loop"), str(FORWARDER_CPU), *place.sockets(COPY)])
    return [testpmd.NAME, COPY]


def run(run: Run) -> list[Measured]:
    """Interleaves all, for about half a minute per size and direction."""
    ids = [name for name in SIZES if name in run.ids]
    variants = [f"{name}|{ways}" for name in ids for ways in WAYS]
    with testpmd.huge_pages() as huge, field(log2_ring=LOG2_RING) as place:
        names = [tree.name for tree in run.trees]
        for tree in run.trees:
            place.vwire(tree)
        names += peers(place, huge)

        def one(name: str, variant: str):  # type: ignore[no-untyped-def]
            id, ways = variant.split("|")  # noqa: A001 - the field's name
            return place.throughput(name, variant, SIZES[id], WAYS[ways])

        found = interleave(variants, names, one, seconds=len(variants) * run.times(40, 8))
    made = []
    for (variant, regime), slices in found.items():
        id, ways = variant.split("|")  # noqa: A001
        made.append(
            Measured(
                id=id,
                unit="Mpps",
                samples=figures(slices, "mpps"),
                baseline=testpmd.NAME,
                references={"copy": COPY},
                regime=regime,
                direction=ways,
            )
        )
    return made
