"""Round trip of a ping from kernel to kernel through the packet loop, beside a direct veth pair and the bridge.

One ping every ten milliseconds, so that the worker sleeps between them: this is the first frame's
time, not a flow's.
"""

import re
import statistics
from collections import defaultdict
from contextlib import ExitStack

from bench.kernel_paths import BRIDGE, VETH, Path, bridge, direct, vwire
from bench.results import Measured
from bench.run import Run, in_turn

COUNT = 60
INTERVAL_S = 0.01


def round_trips_us(path: Path) -> list[float]:
    """Pings and returns every answer's time."""
    told = path.client.run("ping", "-c", str(COUNT), "-i", str(INTERVAL_S), path.address).stdout
    return [1e3 * float(each) for each in re.findall(r"time=([0-9.]+) ms", told)]


def run(run: Run) -> list[Measured]:
    """Interleaves all paths; a sample is the median, or p99, of one ping run."""
    p50: dict[str, list[float]] = defaultdict(list)
    p99: dict[str, list[float]] = defaultdict(list)
    openers = {tree.name: vwire(tree, datapath="userspace") for tree in run.trees}
    openers |= {VETH: direct, BRIDGE: bridge}
    with ExitStack() as stack:
        paths = {name: stack.enter_context(opener()) for name, opener in openers.items()}
        for path in paths.values():
            round_trips_us(path)  # warm
        for turn in range(run.times(12, 5)):
            for name in in_turn(list(paths), turn):
                took = round_trips_us(paths[name])
                p50[name].append(statistics.median(took))
                p99[name].append(statistics.quantiles(took, n=100)[98])
    return [
        Measured(
            id="kernel-ping",
            unit="µs",
            samples=p50,
            baseline=VETH,
            references={"bridge": BRIDGE},
            further={"p99": p99},
            note=f"one every {1e3 * INTERVAL_S:.0f} ms",
        )
    ]
