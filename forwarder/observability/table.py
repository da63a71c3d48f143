"""A table of vWires: what flows each way, how fast, how long it stays with us, and what was dropped for which reason.

Rates and percentiles are of the time between two looks at the counters; the first look has none. It
is readable from 80 columns on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table
from rich.text import Text

from forwarder.dataplane.statistics import Histogram

_PREFIXES = ("", "k", "M", "G", "T")
_THOUSAND = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The counters of one direction."""

    frames: int = 0
    """Delivered."""
    bytes: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    """By reason, those that are not zero."""
    residence_ns: Histogram = field(default_factory=Histogram)
    """How long frames stayed with us; empty where that is not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One vWire at one moment."""

    name: str
    client: str
    """`<TYPE>/<interface>` of the client's side."""
    endpoint: str
    payload: str
    datapath: str
    """What carries the frames."""
    state: str
    forth: Flow | None
    """From client to endpoint; None where nobody counts."""
    back: Flow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All vWires at one moment."""

    at: float
    """Seconds on any steady clock."""
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The speed of one direction between two looks."""

    frames: float
    """Per second."""
    bits: float
    """Per second."""


def rate(before: Flow | None, now: Flow, seconds: float) -> Rate | None:
    """Returns the speed since `before`; None without an earlier look, or when counters began anew."""
    if before is None or seconds <= 0 or now.frames < before.frames or now.bytes < before.bytes:
        return None
    return Rate(frames=(now.frames - before.frames) / seconds, bits=8 * (now.bytes - before.bytes) / seconds)


def quantity(value: float, unit: str = "") -> str:
    """Writes a number with three digits that count: 1234567 is `1.23M`."""
    step = 0
    # 999.5 would be written as 1e+03.
    while value >= _THOUSAND - 0.5 and step < len(_PREFIXES) - 1:
        value /= _THOUSAND
        step += 1
    digits = f"{value:.0f}" if step == 0 and value == int(value) else f"{value:.3g}"
    return f"{digits}{_PREFIXES[step]}{unit}"


def drops(flow: Flow) -> str:
    """Writes the drops of a direction, a line for each reason, largest first."""
    told = sorted(((count, reason) for reason, count in flow.drops.items() if count), reverse=True)
    return "\n".join(f"{reason} {count}" for count, reason in told) or "none"


def duration(ns: int | None) -> str:
    """Writes nanoseconds in the unit that suits them: 12300 is `12.3µs`."""
    if ns is None:
        return "-"
    for size, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if ns >= size:
            return f"{ns / size:.3g}{unit}"
    return f"{ns}ns"


def render(now: Look, before: Look | None = None, title: str | None = None) -> Table:
    """Makes the table of `now`, two lines for a vWire, with rates and residence times since `before`."""
    earlier = {row.name: row for row in before.rows} if before else {}
    seconds = now.at - before.at if before else 0.0
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.caption, table.caption_justify = "p50, p99: how long frames stay in the forwarder", "left"
    table.add_column("vWire", no_wrap=True)
    table.add_column("from", no_wrap=True)
    for heading in ("frames", "pps", "bit/s", "p50", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("drops", overflow="fold")
    for row in now.rows:
        was = earlier.get(row.name)
        name = Text.assemble((row.name, "bold"), " ", (row.state, "green" if row.state == "UP" else "red"))
        forth = _direction(row.client, row.forth, was.forth if was else None, seconds)
        back = _direction(row.endpoint, row.back, was.back if was else None, seconds)
        table.add_row(name, *forth)
        table.add_row(Text(f"{row.payload}, {row.datapath}", style="dim"), *back, end_section=True)
    return table


def _direction(source: str, flow: Flow | None, before: Flow | None, seconds: float) -> list[str | Text]:
    if flow is None:
        return [source, "-", "-", "-", "-", "-", Text("not counted", style="dim")]
    speed = rate(before, flow, seconds)
    residence = flow.residence_ns.since(before.residence_ns) if speed is not None and before is not None else None
    lost = drops(flow)
    return [
        source,
        quantity(flow.frames),
        "-" if speed is None else quantity(speed.frames),
        "-" if speed is None else quantity(speed.bits),
        "-" if residence is None else duration(residence.percentile(50)),
        "-" if residence is None else duration(residence.percentile(99)),
        Text(lost, style="dim" if lost == "none" else "yellow"),
    ]
