"""Which kernel ports get a receive ring: a decision by rates, without any socket."""

RING_RATE = 20_000.0
"""Frames per second from which a port is worth a ring, unless told otherwise."""


def wants_ring(frames_per_s: float, *, ring_rate: float, has_ring: bool, rings: int, max_rings: int) -> bool:
    """Decides whether a port shall receive through a ring, by what came since the last look.

    A ring saves a third of the worker's time for super-frames, nothing for small ones, and
    costs eight megabytes of kernel memory. It is taken at ten times the rate at which it is
    given up, so that a port about the limit does not change to and fro. While all
    `max_rings` are taken, nobody else gets one.
    """
    if has_ring:
        return frames_per_s >= ring_rate / 10
    return frames_per_s >= ring_rate and rings < max_rings
