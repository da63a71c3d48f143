"""Ten hot vWires among a thousand, beside ten alone: memif to memif, 64 bytes, one way.

Two processes of ours take turns in slices. The generator serves the ten hot vWires in turn; the
others of the thousand are connected, and silent.
"""

from contextlib import ExitStack

from bench.programs import compiled, driven
from bench.results import Measured
from bench.run import Run
from bench.slices import field, figures, interleave, slug

LOG2_RING = 8
FRAME_BYTES = 64
HOT = 10
ALONE = f"the same {HOT} alone"


def run(run: Run) -> list[Measured]:
    """Interleaves the two."""
    all_of_them = run.times(1000, 300)
    made = []
    with field(log2_ring=LOG2_RING) as place, ExitStack() as stack:
        names: list[str] = []
        for tree in run.trees:
            alone = ALONE if tree is run.trees[0] else f"{ALONE}, {tree.name}"
            place.vwire(tree, alone, vwires=HOT)
            ours = place.vwire(tree, vwires=HOT)
            folder = place.scratch / slug(tree.name)
            with place.released(tree.name):
                ours.tell("servers", folder, HOT, all_of_them, LOG2_RING)
                command = [compiled("clients"), str(folder), str(HOT), str(all_of_them)]
                stack.enter_context(driven(command, place.log(f"{tree.name}-clients")))
                ours.answer("servers")
            names += [tree.name, alone]
        found = interleave(
            [""],
            names,
            lambda name, _: place.throughput(name, "", FRAME_BYTES, 1),
            seconds=run.times(30, 10),
        )
    for (_, regime), slices in found.items():
        made.append(
            Measured(
                id="hot-among-idle",
                unit="Mpps",
                samples=figures(slices, "mpps"),
                baseline=ALONE,
                regime=regime,
                direction="one way",
                note=f"{HOT} of {all_of_them:,} vWires, 64 B frames",
            )
        )
    return made
