"""The knobs of the data plane and their defaults, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Values of all knobs; what each means is told beside its name in `cli/profile.py`.

    A burst is no knob. It is 64 frames, in arrays of that size: the shared indices of a ring cost a
    few cache lines for each burst, which 64 frames share well enough that more gain nothing; fewer
    lose.
    """

    workers: int = 1
    worker_cpus: tuple[int, ...] = ()
    poll_window_s: float = 50e-6
    stall_limit_s: float = 20e-3
    memif_ring_slots: int = 1024
    memif_buffer_bytes: int = 2048

    @property
    def log2_ring_slots(self) -> int:
        """The ring's size as memif has it."""
        return self.memif_ring_slots.bit_length() - 1
