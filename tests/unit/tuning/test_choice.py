"""Choosing among measured values."""

import pytest

from forwarder.tuning import choice, hiccup


def test_the_cheapest_of_those_that_are_as_good_as_the_best_is_taken():
    assert choice.first_good({256: [97.5], 512: [100], 1024: [99]}) == 256
    assert choice.first_good({256: [96], 512: [98], 1024: [100]}) == 512
    assert choice.first_good({256: [50], 512: [100], 1024: [104]}) == 1024
    assert choice.first_good({256: [50], 512: [100], 1024: [104]}, 0.1) == 512


def test_one_lucky_round_decides_nothing():
    assert choice.first_good({"a": [10, 10, 10], "b": [9, 9, 90]}) == "a"


def test_rounds_of_a_host_that_changes_between_them_say_the_same():
    fast, slow = choice.relative({256: 40.0, 512: 50.0, 1024: 60.0}), choice.relative({256: 4.0, 512: 5.0, 1024: 6.0})
    assert fast == pytest.approx(slow)
    assert fast[512] == 1


@pytest.mark.parametrize(("cpus", "counts"), [(1, [1]), (2, [1]), (3, [1]), (4, [1, 2]), (16, [1, 2, 4, 8])])
def test_workers_are_tried_while_each_has_a_cpu_and_leaves_one(cpus, counts):
    assert choice.worker_counts(cpus) == counts


@pytest.mark.parametrize(
    ("rates", "workers"),
    [({1: [10]}, 1), ({1: [10], 2: [19]}, 2), ({1: [10], 2: [12]}, 1), ({1: [10], 2: [18], 4: [20]}, 2)],
)
def test_workers_are_added_while_a_doubling_gains_a_third(rates, workers):
    assert choice.enough_workers(rates) == workers


@pytest.mark.parametrize(("away_s", "limit_s"), [(0.0, 0.02), (0.004, 0.02), (0.0171, 0.034), (0.3, 0.1)])
def test_a_stuck_peer_is_waited_for_twice_as_long_as_a_cpu_is_away_within_bounds(away_s, limit_s):
    assert hiccup.stall_limit_s(away_s) == limit_s
