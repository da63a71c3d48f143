"""Which kernel ports get a receive ring: a decision by rates, without any socket."""

RING_RATE = 10_000.0
"""Super-frames per second from which a port is worth a ring, unless told otherwise."""


def wants_ring(
    frames_per_s: float, large_per_s: float, *, ring_rate: float, has_ring: bool, rings: int, max_rings: int
) -> bool:
    """Decides whether a port shall receive through a ring, by what came since the last look.

    A ring saves a third of the worker's time for super-frames of 16 KiB and more (`large_per_s`), nothing
    for small ones. It costs eight megabytes of kernel memory, and its slots are few: each holds the largest
    frame there is, so where small frames prevail the socket's queue takes many times more before it is
    full. A ring is taken at ten times the rate at which it is given up, so that a port about the limit does
    not change to and fro. While all `max_rings` are taken, nobody else gets one. With a `ring_rate` of 0
    every port gets one, whatever it carries.
    """
    if has_ring:
        return not ring_rate or (large_per_s >= ring_rate / 10 and large_per_s >= frames_per_s / 4)
    fits = not ring_rate or (large_per_s >= ring_rate and large_per_s >= frames_per_s / 2)
    return fits and rings < max_rings
