"""What becomes of a measurement: limits, rows, and the file they are kept in."""

import importlib
import json

import pytest

from bench import compare
from bench.goals import GOALS, chosen, holds, parts
from bench.plot import reach
from bench.results import ROOT, Measured, load, row, save
from bench.slices import Slice, enough

FIELDS = {
    "id", "unit", "ours", "baseline", "baseline_name", "ratio", "runs", "spread", "at_least", "aim", "holds"
}  # fmt: skip

MEMIF = Measured(
    id="memif-memif-64",
    unit="Mpps",
    samples={"vwire": [40, 50, 60], "peer": [20, 25, 30], "copy loop": [60, 60, 60]},
    baseline="peer",
    references={"copy": "copy loop"},
    further={"p99": {"vwire": [3], "peer": [6]}},
    regime="near",
)


def test_a_row_compares_medians_with_every_peer_of_its_run():
    made = row(MEMIF, "vwire", {"commit": "abc"})
    assert set(made) >= FIELDS
    assert (made["ours"], made["baseline"], made["baseline_name"], made["ratio"]) == (50, 25, "peer", 2)
    assert (made["copy"], made["copy_ratio"]) == (60, 0.8333)
    assert (made["p99"], made["p99_baseline"], made["p99_ratio"]) == (3, 6, 0.5)
    assert (made["runs"], made["spread"]) == (3, [40, 60])
    assert (made["regime"], made["commit"], made["ns_per_frame"]) == ("near", "abc", 20)
    assert made["holds"] is True


def test_a_row_without_a_baseline_says_so():
    made = row(Measured(id="memory", unit="MiB", samples={"vwire": [81]}), "vwire", {})
    assert (made["baseline"], made["baseline_name"], made["ratio"], made["holds"]) == (None, "", None, False)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ("ratio >= 2", True),
        ("ratio > 2", False),
        ("ratio <= 2, ours < 50", True),
        ("ratio <= 2, ours < 49", False),
        ("missing >= 0", False),
        ("nothing <= 1", False),
    ],
)
def test_a_limit_holds_if_all_its_parts_do(limit, kept):
    assert holds(limit, {"ratio": 2, "ours": 49, "nothing": None}) is kept


@pytest.mark.parametrize("limit", ["ratio", "ratio >= much", "ratio >= 2;ours >= 1"])
def test_a_limit_that_says_nothing_is_an_error(limit):
    with pytest.raises(ValueError, match="is not of the form"):
        parts(limit)


def test_every_goal_has_limits_that_can_be_read_and_a_script():
    for goal in GOALS.values():
        assert parts(goal.at_least)
        parts(goal.aim)
        assert (ROOT / "bench" / f"{goal.script}.py").exists()


@pytest.mark.parametrize("script", sorted({goal.script for goal in GOALS.values()}))
def test_a_script_can_be_run(script):
    assert callable(importlib.import_module(f"bench.{script}").run)


def test_what_is_chosen_comes_in_the_table_s_order():
    assert chosen("") == list(GOALS)
    assert chosen("kernel-ping, memif-memif-64") == ["memif-memif-64", "kernel-ping"]


def test_an_unknown_id_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no such measurement: nonsense\. There are: memif-memif-64, .*memory"):
        chosen("memory,nonsense")


def test_a_partial_run_keeps_the_other_rows(tmp_path):
    path = tmp_path / "results.json"
    memory = row(Measured(id="memory", unit="MiB", samples={"vwire": [60]}), "vwire", {})
    near = row(MEMIF, "vwire", {})
    far = {**near, "regime": "far"}
    save([memory], path)
    save([far, near], path)
    assert [(each["id"], each.get("regime")) for each in load(path)] == [
        ("memif-memif-64", "near"),
        ("memif-memif-64", "far"),
        ("memory", None),
    ]
    save([far], path)
    assert [each.get("regime") for each in load(path)] == ["far", None]


def test_the_kept_results_have_every_field_and_judge_as_the_table_does():
    for kept in json.loads((ROOT / "bench" / "results.json").read_text()):
        assert set(kept) >= FIELDS
        assert kept["at_least"] == GOALS[kept["id"]].at_least
        assert kept["holds"] is holds(kept["at_least"], kept)


def test_two_commits_are_told_beside_each_other_and_only_what_is_clear_is_called_better():
    clear = Measured(id="kernel-ping", unit="µs", samples={"old": [30, 31, 32], "new": [20, 21, 22]})
    unclear = Measured(id="memory", unit="MiB", samples={"old": [60, 70], "new": [61, 71]})
    first, second = compare.told([clear, unclear], "old", "new").splitlines()[1:]
    assert first.split() == ["kernel-ping", "µs", "31", "30", "to", "32", "21", "20", "to", "22", "0.6774", "better"]
    assert second.split()[-1] == "1.015"


def a_slice(contestant, probes_ns, shares=(1.0, 1.0), variant="v"):
    return Slice(contestant=contestant, variant=variant, figures={"mpps": 1.0}, probes_ns=probes_ns, shares=shares)


@pytest.mark.parametrize(
    ("probes_ns", "shares", "regime"),
    [
        ((60, 80), (0.99, 0.95), "near"),
        ((310, 340), (0.99, 0.95), "far"),
        ((60, 310), (1, 1), ""),
        ((170, 170), (1, 1), ""),
        ((60, 60), (1, 0.9), ""),
        ((60, 60), (0.9, 1), ""),
    ],
)
def test_a_slice_counts_by_its_probes_and_its_cpu(probes_ns, shares, regime):
    assert a_slice("vwire", probes_ns, shares).regime == regime


def test_a_figure_needs_enough_slices_of_everybody():
    near = [a_slice(name, (60, 60)) for name in ("vwire", "peer") for _ in range(5)]
    far = [a_slice("vwire", (310, 310)) for _ in range(9)] + [a_slice("peer", (310, 310)) for _ in range(4)]
    found = enough(near + far, ["vwire", "peer"])
    assert list(found) == [("v", "near")]
    assert {name: len(each) for name, each in found["v", "near"].items()} == {"vwire": 5, "peer": 5}


def test_worse_is_left_of_the_line_whichever_way_is_better():
    assert reach(1, ">=", 2) == 0.5
    assert reach(4, "<=", 2) == 0.5
    assert reach(0, "<=", 0) == 1
