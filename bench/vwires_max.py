"""Very many vWires in one process, memif and kernel, and whether they carry frames.

Fifteen hundred with memif clients that are connected, five hundred between kernel interfaces. Then
frames go over a sample of both kinds: full load on the first and last memif vWires, pings on kernel
ones. The number counts only if all of the sample carries.
"""

from bench.population import LOG2_RING, Population, batch, population
from bench.programs import compiled, driven, status_kib
from bench.results import Measured
from bench.run import Run

MEMIF, KERNEL, SAMPLE = 1500, 500, 8


def carried(made: Population, kernel: int, memif: int) -> int:
    """Sends frames over a sample of vWires; returns how many of it were asked. Fails for one that carries nothing."""
    command = [compiled("generator"), "0", "1", str(LOG2_RING)]
    with driven(command, made.scratch / "generator.log") as generator:
        for number in range(memif, memif + SAMPLE):
            generator.ask("open", "sample", *(f"{made.scratch}/{number}-{end}" for end in "ab"))
        made.ours.answer("servers")
        generator.ask("through", "sample")
    numbers = range(0, kernel, max(1, kernel // SAMPLE))
    for pod, end in ((made.left, 1), (made.right, 2)):
        batch(pod, [f"address add 10.9.{n // 60}.{n % 60 * 4 + end}/30 dev p{n}" for n in numbers])
    for n in numbers:
        made.left.run("ping", "-c", "2", "-i", "0.01", "-W", "5", f"10.9.{n // 60}.{n % 60 * 4 + 2}")
    return SAMPLE + len(numbers)


def run(run: Run) -> list[Measured]:
    """Makes one population per tree."""
    count: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    resident: dict[str, list[float]] = {}
    sampled = 0
    memif = MEMIF - SAMPLE
    for tree in run.trees:
        with population(tree) as made:
            took = made.memif(0, memif) + made.kernel(0, KERNEL)
            made.ours.tell("servers", made.scratch, memif, MEMIF, LOG2_RING)
            sampled = carried(made, KERNEL, memif)
            count[tree.name] = [MEMIF + KERNEL]
            seconds[tree.name] = [took]
            resident[tree.name] = [sum(status_kib(made.ours.pid, "VmRSS")) / 1024]
    return [
        Measured(
            id="vwires-max",
            unit="vWires",
            samples=count,
            further={"setup_s": seconds, "resident_mib": resident},
            note=f"{MEMIF} memif and {KERNEL} kernel ones, as many as were tried; frames over {sampled} of them",
        )
    ]
