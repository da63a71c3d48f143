"""The knobs of the data plane and their defaults, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Values of all knobs; what each means is told beside its name in `cli/profile.py`.

    A burst is no knob: it is 128 frames, 64 from a socket; arrays are of that size and the loop is
    compiled for it. Other sizes can be measured by comparing commits (bench/README.md). With 64 byte
    frames from memif to memif and near CPUs, bursts of 32 and 64 carried as much, bursts of 128 8 %
    (both ways) to 20 % (one way) more.
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
