"""The table of vWires: rates, quantities, drops."""

import pytest
from rich.console import Console

from forwarder.dataplane import Histogram
from forwarder.observability.table import Flow, Look, Rate, Row, drops, duration, quantity, rate, render


def row(name="client-0", forth=None, back=None, state="UP"):
    return Row(
        name=name,
        client="KERNEL/nsm-1",
        endpoint="MEMIF/memif",
        payload="ETHERNET",
        datapath="userspace",
        state=state,
        forth=forth or Flow(),
        back=back or Flow(),
    )


def shown(table, width=200):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_what_nobody_counts_is_not_shown_as_nothing():
    uncounted = Row(
        name="app-0", client="MEMIF/m", endpoint="MEMIF/m", payload="IP", datapath="memif", state="UP",
        forth=None, back=None,
    )  # fmt: skip
    text = shown(render(Look(at=2.0, rows=[uncounted]), Look(at=1.0, rows=[uncounted])))
    assert text.count("not counted") == 2
    assert "IP, memif" in text


def test_a_rate_is_the_difference_over_the_time():
    before, now = Flow(frames=10, bytes=1000), Flow(frames=30, bytes=3500)
    assert rate(before, now, 2.0) == Rate(frames=10.0, bits=10000.0)


@pytest.mark.parametrize(
    ("before", "now", "seconds"),
    [
        (None, Flow(frames=1), 1.0),
        (Flow(frames=1), Flow(frames=2), 0.0),
        (Flow(frames=9), Flow(frames=2), 1.0),
    ],
)
def test_there_is_no_rate_without_an_earlier_look_at_the_same_counters(before, now, seconds):
    assert rate(before, now, seconds) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.5, "0.5"),
        (999, "999"),
        (999.7, "1k"),
        (1234567, "1.23M"),
        (2e10, "20G"),
        (5e15, "5e+03T"),
    ],
)
def test_quantities_have_three_digits_that_count(value, text):
    assert quantity(value) == text


def test_drops_are_told_by_reason_largest_first():
    assert drops(Flow(drops={"no_room": 2, "link_down": 5})) == "link_down 5\nno_room 2"
    assert drops(Flow(drops={"no_room": 0})) == "none"


def test_a_row_tells_both_directions_their_rates_and_drops():
    before = Look(at=10.0, rows=[row(forth=Flow(frames=1000, bytes=100_000))])
    now = Look(
        at=12.0,
        rows=[row(forth=Flow(frames=3000, bytes=300_000), back=Flow(frames=5, drops={"no_room": 3}), state="DOWN")],
    )
    text = shown(render(now, before, "mesh"))
    for part in ("mesh", "client-0", "KERNEL/nsm-1", "MEMIF/memif", "3k", "1k", "800k", "no_room 3", "DOWN"):
        assert part in text


def test_a_vwire_that_is_new_has_no_rate():
    text = shown(render(Look(at=2.0, rows=[row(forth=Flow(frames=5))]), Look(at=1.0, rows=[])))
    assert " - " in text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, "-"), (0, "0ns"), (896, "896ns"), (12_288, "12.3µs"), (1_500_000, "1.5ms"), (2 * 10**9, "2s")],
)
def test_durations_are_written_in_the_unit_that_suits_them(ns, text):
    assert duration(ns) == text


def test_residence_times_are_those_since_the_earlier_look():
    slow, fast = {5_000_000: 100}, {1_000: 98, 20_000: 2}
    before = Look(at=1.0, rows=[row(forth=Flow(frames=100, residence_ns=Histogram(slow)))])
    now = Look(at=2.0, rows=[row(forth=Flow(frames=200, residence_ns=Histogram(fast | slow)))])
    text = shown(render(now, before))
    assert "1µs" in text
    assert "20µs" in text
    assert "5ms" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off_at_a_terminals_usual_width(width):
    busy = Flow(frames=123_456_789, bytes=10**12, drops={"link_down": 12345}, residence_ns=Histogram({123_000: 5}))
    look = Look(at=2.0, rows=[row(name="client-0", forth=busy, back=busy)])
    text = shown(render(look, Look(at=1.0, rows=[row()])), width)
    assert "…" not in text
    for part in (
        "client-0 UP",
        "ETHERNET, userspace",
        "KERNEL/nsm-1",
        "MEMIF/memif",
        "123M",
        "8T",
        "123µs",
        "link_down",
    ):
        assert part in text
    assert text.count("12345") == 2
