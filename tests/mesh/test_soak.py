"""A short soak: see tests/support/soak.py, which runs for as long as one likes by hand."""

from tests.support.soak import soak

SECONDS = 4


async def test_traffic_of_every_kind_with_vwires_coming_and_going_ends_with_a_balanced_ledger(tmp_path):
    """What is left behind, the leak check of every test finds."""
    ledger = await soak(tmp_path, SECONDS, seed=3)
    assert ledger.wrong == []
    assert ledger.vwires > 4
    assert ledger.moves > 0
    assert ledger.compared > 0
    assert ledger.tcp_bytes > 0
    assert ledger.datagrams > 0
