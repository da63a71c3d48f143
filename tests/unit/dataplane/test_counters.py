"""What is counted has words."""

import pytest

from forwarder.dataplane import DROP_SENTENCES, FlowStatistics
from forwarder.dataplane.counters import drop_name


def test_every_drop_reason_has_a_name_and_one_sentence() -> None:
    assert [drop_name(number) for number in range(len(DROP_SENTENCES))] == list(DROP_SENTENCES)
    for name, sentence in DROP_SENTENCES.items():
        assert name == name.lower().replace(" ", "_")
        assert len(sentence.split()) > 4
        assert not sentence.endswith(".")


def test_a_number_that_is_no_drop_reason_is_an_error() -> None:
    with pytest.raises(IndexError):
        drop_name(len(DROP_SENTENCES))


def test_dropped_frames_are_all_reasons_together() -> None:
    flow = FlowStatistics(
        in_frames=10, in_bytes=600, out_frames=7, out_bytes=420, bursts=2, drops={"runt": 1, "no_room": 2}
    )
    assert flow.dropped_frames == 3
