"""What the data plane has counted, as plain values. All counts grow from the start and are never reset."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values came, in buckets."""

    counts: Mapping[int, int] = field(default_factory=dict)
    """By the largest value of a bucket, rising; buckets without any are left out."""

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def percentile(self, percent: float) -> int | None:
        """Returns the smallest bucket's largest value that `percent` of all do not exceed; None if there are none."""
        wanted = self.total * percent / 100
        reached = 0
        for value, count in self.counts.items():
            reached += count
            if reached >= wanted:
                return value
        return None

    def since(self, earlier: "Histogram") -> "Histogram":
        """Returns what has come since an earlier snapshot."""
        new = {value: count - earlier.counts.get(value, 0) for value, count in self.counts.items()}
        return Histogram({value: count for value, count in new.items() if count > 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStatistics:
    """One direction of a vWire.

    `in_frames` = `out_frames` + the sum of `drops`, to the frame, once nothing is under way.
    """

    in_frames: int
    """Frames received from the sending port; a kernel super-frame is one."""
    in_bytes: int
    out_frames: int
    """Those of them that the other port sent, before segmentation."""
    out_bytes: int
    bursts: int
    """How many groups they came in."""
    drops: Mapping[str, int]
    """Frames that were not sent, by reason; reasons without any are left out."""
    busy_ns: int = 0
    """The worker's time for this direction."""
    residence_ns: Histogram = field(default_factory=Histogram)
    """How long bursts stayed with us, from the poll that found them to their publication at the other
    port, in nanoseconds to an eighth of an octave; an upper bound. Under load one burst in eight is
    timed and stands for the others."""
    burst_frames: Histogram = field(default_factory=Histogram)
    """How many frames came at once, by powers of two."""

    @property
    def dropped_frames(self) -> int:
        """Frames that were received and not sent."""
        return sum(self.drops.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class VwireStatistics:
    """Both directions of a vWire."""

    name: str
    a_to_b: FlowStatistics
    b_to_a: FlowStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class PortStatistics:
    """What a port counts for itself."""

    connected: bool
    polls: int
    """How often it was asked for frames."""
    kicks: int
    """How often it woke its peer."""
    missed: int
    """Frames that no vWire has seen: the kernel had no room to keep them for us, or they lay in a memif
    when its connection ended. A vWire's `in_frames` does not have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatistics:
    """One worker thread."""

    vwires: int
    """How many vWires its plan has."""
    turns: int
    """Passes over the active vWires."""
    busy_ns: int
    """Time of the turns that moved frames. Its growth between two snapshots, by the time between them, is the
    worker's load."""
    sleeps: int
    """How often it had nothing active and waited."""
    wakes: int
    """How often a port's descriptor made a vWire active."""
    looks: int
    """How often a sleeping vWire was looked at, in case its peer's wake-up was lost."""
    rescues: int
    """How many of those looks found frames."""
    changes: int
    """How many changes of its plan it has adopted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataplaneStatistics:
    """Everything at one moment; the parts are read one after the other."""

    vwires: tuple[VwireStatistics, ...]
    workers: tuple[WorkerStatistics, ...]
    moves: int = 0
    """How often a vWire was moved from one worker to another."""
