"""The table: what is measured, by which script, and what it has to reach.

A limit is written over the fields of a result: `ratio >= 2, copy_ratio >= 0.7`. All of its parts
have to hold.
"""

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

_PART = re.compile(r"(\w+) (>=|<=|>|<) ([0-9.]+)")
_COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One row of the table."""

    script: str
    """The module of this package that measures it."""
    what: str
    at_least: str
    aim: str = ""

    @property
    def more_is_better(self) -> bool:
        """Whether the first part of the limit is a floor."""
        return parts(self.at_least)[0][1].startswith(">")


def parts(limit: str) -> list[tuple[str, str, float]]:
    """Splits a limit into field, comparison and number. Raises ValueError for what is none."""
    found = [_PART.fullmatch(part) for part in limit.split(", ")] if limit else []
    if not all(found):
        raise ValueError(f"{limit!r} is not of the form `field >= number, field <= number`")
    return [(match[1], match[2], float(match[3])) for match in found if match]


def holds(limit: str, row: Mapping[str, object]) -> bool:
    """Says whether a result keeps to a limit; a field that was not measured does not."""
    return all(
        isinstance(value := row.get(name), int | float) and _COMPARE[comparison](value, number)
        for name, comparison, number in parts(limit)
    )


GOALS: Mapping[str, Goal] = {
    "memif-memif-64": Goal(
        script="memif",
        what="memif to memif, 64 B frames",
        at_least="ratio >= 2, copy_ratio >= 0.7",
        aim="ratio >= 2.8, copy_ratio >= 0.95",
    ),
    "memif-memif-1500": Goal(
        script="memif",
        what="memif to memif, 1500 B frames",
        at_least="ratio >= 1.3, copy_ratio >= 0.8",
        aim="ratio >= 1.6, copy_ratio >= 0.97",
    ),
    "memif-testpmd-ends": Goal(
        script="memif_ends",
        what="memif to memif, testpmd at both ends",
        at_least="ratio >= 1",
        aim="ratio >= 1.3",
    ),
    "memif-latency": Goal(
        script="memif_latency",
        what="one frame in flight, there only",
        at_least="ratio <= 1, p99_ratio <= 1",
        aim="ratio <= 0.7, p99_ratio <= 0.7",
    ),
    "kernel-tcp-userspace": Goal(
        script="tcp",
        what="TCP kernel to kernel, packet loop",
        at_least="ratio >= 0.8",
        aim="ratio >= 0.95, bridge_ratio > 1",
    ),
    "kernel-udp-userspace": Goal(
        script="udp",
        what="UDP 64 B kernel to kernel, packet loop, delivered",
        at_least="ratio >= 0.9",
        aim="ratio >= 1.3",
    ),
    "kernel-tcp-auto": Goal(
        script="tcp", what="TCP kernel to kernel, datapath chosen by the forwarder", at_least="ratio >= 1"
    ),
    "kernel-memif-tcp": Goal(
        script="kernel_memif",
        what="TCP kernel, memif, memif, kernel through two forwarders",
        at_least="ratio >= 3",
        aim="veth_ratio >= 0.7",
    ),
    "kernel-ping": Goal(
        script="ping", what="ping kernel to kernel, packet loop, median", at_least="ratio <= 6", aim="ratio <= 3"
    ),
    "idle-cpu": Goal(
        script="idle", what="CPU with 1,000 connected idle vWires", at_least="ours <= 0.5", aim="ours < 0.1"
    ),
    "vwires-max": Goal(
        script="vwires_max",
        what="vWires in one process, memif and kernel",
        at_least="ours >= 2000",
        aim="ours >= 10000",
    ),
    "vwire-memory": Goal(
        script="idle", what="own memory of one more idle vWire", at_least="ours <= 32", aim="ours <= 8"
    ),
    "hot-among-idle": Goal(script="hot", what="10 hot vWires among 1,000", at_least="ratio >= 0.95", aim="ratio >= 1"),
    "setup-memif": Goal(
        script="setup", what="memif vWires set up, data plane alone", at_least="ours >= 1000", aim="ours >= 5000"
    ),
    "request-kernel": Goal(
        script="request",
        what="whole Request, kernel at both sides, p50",
        at_least="ratio <= 12, requests_per_s >= 100",
        aim="ratio <= 5, requests_per_s >= 300",
    ),
    "change-impact": Goal(
        script="change",
        what="longest stall while other vWires come and go",
        at_least="ours < 1000, lost_frames <= 0",
        aim="ours < 50, lost_frames <= 0",
    ),
    "memif-restart": Goal(
        script="restart",
        what="memif application listens again to its first frame",
        at_least="ours <= 100",
        aim="ours <= 20",
    ),
    "startup": Goal(script="startup", what="process start to SERVING", at_least="ours <= 1"),
    "memory": Goal(
        script="memory", what="resident memory with one vWire (76.3 MiB are 80 MB)", at_least="ours <= 76.3"
    ),
}


def chosen(only: str) -> list[str]:
    """Reads `id,id`, empty for all. Raises ValueError that lists the known ids for one that is not."""
    asked = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in asked if name not in GOALS]
    if unknown:
        raise ValueError(f"no such measurement: {', '.join(unknown)}. There are: {', '.join(GOALS)}")
    return [name for name in GOALS if name in asked or not asked]
