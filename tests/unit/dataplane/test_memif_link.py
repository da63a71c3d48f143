"""How often a memif client tries to connect."""

import itertools

import pytest

from forwarder.dataplane.memif_link import KNOCK_FIRST_S, KNOCK_LONGEST_S, knock_pause_s


def tries(away_s: float) -> int:
    """How often it tries while its peer is away, no part taken off the pauses."""
    at = 0.0
    for number in itertools.count():
        if at > away_s:
            return number
        at += knock_pause_s(at)
    raise AssertionError


@pytest.mark.parametrize("away_s", [0.0, 0.01, 0.1, 0.3, 1.0, 10.0, 30.0])
def test_a_peer_that_was_away_waits_a_sixteenth_of_that_while(away_s: float) -> None:
    assert knock_pause_s(away_s) <= max(KNOCK_FIRST_S, away_s / 16)


def test_a_peer_that_stays_away_costs_little() -> None:
    assert knock_pause_s(1e9) == KNOCK_LONGEST_S
    assert tries(32) < 130
    assert tries(3600) - tries(32) < 3600 / KNOCK_LONGEST_S
