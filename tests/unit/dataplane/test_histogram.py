"""Percentiles and differences of histograms."""

from forwarder.dataplane import Histogram


def test_percentiles_are_the_largest_values_of_their_buckets() -> None:
    histogram = Histogram({71: 50, 79: 49, 1023: 1})
    assert histogram.total == 100
    assert [histogram.percentile(percent) for percent in (0, 50, 50.5, 99, 99.5, 100)] == [71, 71, 79, 79, 1023, 1023]


def test_an_empty_one_has_no_percentile() -> None:
    assert Histogram().percentile(50) is None


def test_what_came_since_an_earlier_one() -> None:
    later = Histogram({71: 5, 79: 2, 95: 1})
    assert later.since(Histogram({71: 5, 79: 1})) == Histogram({79: 1, 95: 1})
    assert later.since(later) == Histogram()
