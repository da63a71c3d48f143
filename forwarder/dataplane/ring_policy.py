"""Which kernel ports get a receive ring: a decision by rates, without any socket."""

RING_RATE = 20_000
"""Frames per second from which a port is worth a ring."""
QUIET_RATE = 2_000
"""Frames per second below which it is not any more."""


def wants_ring(frames_per_s: float, *, has_ring: bool, rings: int, max_rings: int) -> bool:
    """Decides whether a port shall receive through a ring, by what came since the last look.

    A ring saves one copy and most system calls, and costs eight megabytes of kernel memory. It is
    taken at ten times the rate at which it is given up, so that a port about the limit does not
    change to and fro. While all `max_rings` are taken, nobody else gets one.
    """
    if has_ring:
        return frames_per_s >= QUIET_RATE
    return frames_per_s >= RING_RATE and rings < max_rings
