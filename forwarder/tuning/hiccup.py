"""How long a CPU stays away from a thread that wants it: what a peer's stall has to be told from."""

import heapq
import os
import threading
import time
from collections.abc import Sequence

FLOOR_S, CEILING_S = 0.02, 0.1
MARGIN = 2
OFTEN = 3


def usual_s(cpus: Sequence[int], seconds: float) -> float:
    """Watches each CPU for its part of `seconds` and returns for how long it was away, the third longest time.

    The longest may be a chance. Blocks; the watching is done by a thread made for it, which goes
    from CPU to CPU.
    """
    away = [0.0] * OFTEN

    def watch() -> None:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            now = time.monotonic()
            end = now + seconds / len(cpus)
            while now < end:
                before, now = now, time.monotonic()
                if now - before > away[0]:
                    heapq.heapreplace(away, now - before)

    thread = threading.Thread(target=watch, name="hiccup")
    thread.start()
    thread.join()
    return away[0]


def stall_limit_s(hiccup_s: float) -> float:
    """Returns how long frames shall wait for a stuck peer.

    Twice the time for which a healthy one may lack its CPU, in whole milliseconds; never so
    short that frames are lost for the kernel's time slices, nor so long that a stuck peer is
    waited for in earnest.
    """
    return min(max(round(MARGIN * hiccup_s, 3), FLOOR_S), CEILING_S)
