"""Where vWires go and when they move: by load, without flapping."""

import random

from forwarder.dataplane.placement_policy import LOOKS, REST_S, Damper, Load, best_move, least_loaded


def test_a_new_vwire_goes_to_the_idlest_worker_and_among_equals_to_that_with_the_fewest() -> None:
    assert least_loaded([0.9, 0.3], [1, 100]) == 1
    assert least_loaded([0.01, 0.02, 0.0], [3, 2, 4]) == 1
    assert least_loaded([0.0], [7]) == 0


def test_the_move_evens_out_best() -> None:
    busy = Load(1.0, {"a": 0.6, "b": 0.35, "c": 0.05})
    assert best_move([busy, Load(0.1, {"d": 0.1})]) == ("b", 0, 1)
    assert best_move([Load(0.1), busy, Load(0.2)]) == ("b", 1, 0)


def test_what_would_only_make_another_as_busy_stays() -> None:
    assert best_move([Load(0.95, {"alone": 0.95}), Load(0.0)]) is None
    assert best_move([Load(0.95, {"alone": 0.94, "small": 0.01}), Load(0.0)]) is None
    assert best_move([Load(0.5, {"a": 0.25, "b": 0.25}), Load(0.4, {"c": 0.4})]) is None
    assert best_move([Load(0.5, {"a": 0.25, "b": 0.25})]) is None


def test_one_look_moves_nothing_and_a_moved_vwire_rests() -> None:
    damper: Damper[str] = Damper()
    loads = [Load(0.8, {"a": 0.4, "b": 0.4}), Load(0.0)]
    decisions = [damper.decide(loads, float(now)) for now in range(LOOKS)]
    assert decisions[:-1] == [None] * (LOOKS - 1)
    assert decisions[-1] == ("a", 0, 1)
    # Both on the other one now, by somebody else's hand: "a" rests, "b" may move.
    other = [Load(0.0), Load(0.8, {"a": 0.4, "b": 0.4})]
    later = [damper.decide(other, float(now)) for now in range(LOOKS, 2 * LOOKS)]
    assert later[-1] == ("b", 1, 0)
    only = [Load(0.8, {"a": 0.4, "small": 0.01}), Load(0.0)]
    assert not any(damper.decide(only, float(now)) for now in range(2 * LOOKS, int(REST_S)))
    assert any(damper.decide(only, REST_S + LOOKS + now) for now in range(LOOKS))


def test_an_imbalance_that_comes_and_goes_moves_nothing() -> None:
    damper: Damper[str] = Damper()
    uneven = [Load(0.8, {"a": 0.4, "b": 0.4}), Load(0.0)]
    even = [Load(0.4, {"a": 0.4}), Load(0.4, {"b": 0.4})]
    turned = [Load(0.0), Load(0.8, {"a": 0.4, "b": 0.4})]
    for now in range(60):
        assert damper.decide([uneven, even, uneven, turned][now % 4], float(now)) is None


def test_steady_loads_come_to_rest() -> None:
    """Whatever the loads, at most as many moves as there are vWires, and then none."""
    for seed in range(50):
        generator = random.Random(seed)
        parts = {f"w{n}": generator.choice([0.0, 0.05, 0.2, 0.45]) * generator.random() for n in range(12)}
        at = dict.fromkeys(parts, 0)
        damper: Damper[str] = Damper()
        moves = []
        for now in range(300):
            loads = [
                Load(
                    min(1.0, sum(parts[wire] for wire in parts if at[wire] == number)),
                    {wire: parts[wire] for wire in parts if at[wire] == number},
                )
                for number in range(3)
            ]
            if (move := damper.decide(loads, float(now))) is not None:
                wire, _, at[wire] = move
                moves.append(now)
        assert len(moves) <= len(parts)
        assert all(now < 200 for now in moves)
