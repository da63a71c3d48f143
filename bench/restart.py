"""A memif application restarts: from the moment it listens again to the first frame that reaches it.

We are client of its socket and have to find out by ourselves that it is back. The application is
native/restarts.c, which goes without a word and returns after some tenths of a second, in step with
nothing. (dpdk-testpmd as client does not come back at all; VPP and libmemif try every 3 and 2 s.)
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.programs import compiled, driven, running
from bench.results import Measured
from bench.run import Run

PAUSE_MS = 100


def times_ms(run: Run, stack: ExitStack) -> dict[str, list[float]]:
    """Returns the milliseconds of every restart."""
    took: dict[str, list[float]] = {}
    for tree in run.trees:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ours = stack.enter_context(driven(tree.ours("vwires"), scratch / "ours.log", env=tree.environment()))
        ours.answer("ready")
        ours.ask("client", scratch, 0)
        count = run.times(60, 20)
        log = scratch / "restarts.log"
        sockets = [f"{scratch}/0-{end}" for end in "ab"]
        with running([compiled("restarts"), *sockets, str(count), str(PAUSE_MS)], log) as application:
            assert application.stdout is not None
            took[tree.name] = [float(line.split()[1]) for line in application.stdout if line.startswith("back")]
        if len(took[tree.name]) != count:
            raise RuntimeError(f"{len(took[tree.name])} of {count} restarts: {log.read_text()[-2000:]}")
    return took


def run(run: Run) -> list[Measured]:
    """Restarts the application many times."""
    with ExitStack() as stack:
        took = times_ms(run, stack)
    return [
        Measured(
            id="memif-restart",
            unit="ms",
            samples=took,
            further={"worst": {name: [max(each)] for name, each in took.items()}},
            note="we are client; the application goes without a word",
        )
    ]
