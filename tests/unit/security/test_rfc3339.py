"""Times as text."""

import pytest

from forwarder.errors import InvalidRequest
from forwarder.security import rfc3339

SECOND = 10**9
BASE = 1_767_323_045 * SECOND  # 2026-01-02T03:04:05Z


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-02T03:04:05Z", BASE),
        ("2026-01-02t03:04:05z", BASE),
        ("2026-01-02T03:04:05.678901234Z", BASE + 678_901_234),
        ("2026-01-02T03:04:05.6789012349Z", BASE + 678_901_234),
        ("2026-01-02T03:04:05.5Z", BASE + 500_000_000),
        ("2026-01-02T05:04:05.678901234+02:00", BASE + 678_901_234),
        ("2026-01-01T21:34:05-05:30", BASE),
        ("2026-01-02T03:04:05+00:00", BASE),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.25Z", -750_000_000),
        ("0001-01-01T00:00:00Z", rfc3339.EARLIEST),
        ("9999-12-31T23:59:59.999999999Z", rfc3339.LATEST),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * SECOND),
        ("2016-12-31T23:59:60Z", 1_483_228_799 * SECOND),
    ],
)
def test_times_that_are(text: str, moment: int) -> None:
    assert rfc3339.parse(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        *("", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z", "2026-1-2T03:04:05Z", "2026-01-02T03:04Z"),
        *("2026-13-02T03:04:05Z", "2023-02-29T00:00:00Z", "2026-01-02T24:00:00Z", "2026-01-02T03:60:05Z"),
        *("2026-01-02T03:04:05+24:00", "2026-01-02T03:04:05+02:60", "2026-01-02T03:04:05.Z", "2026-01-02T03:04:05,5Z"),
        *(
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "\u0662026-01-02T03:04:05Z",
        ),
        *("2026-01-02T03:04:05Z ", " 2026-01-02T03:04:05Z", "2026-01-02T03:04:61Z", "2026-01-02T03:04:05+0200"),
    ],
)
def test_times_that_are_not(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rfc3339.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (BASE, "2026-01-02T03:04:05Z"),
        (BASE + 1, "2026-01-02T03:04:05.000000001Z"),
        (BASE + 120_000_000, "2026-01-02T03:04:05.12Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (rfc3339.EARLIEST, "0001-01-01T00:00:00Z"),
        (rfc3339.LATEST, "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_written_without_trailing_zeros(moment: int, text: str) -> None:
    assert rfc3339.text(moment) == text


@pytest.mark.parametrize("moment", [rfc3339.EARLIEST - 1, rfc3339.LATEST + 1])
def test_times_beyond_a_timestamp_are_refused(moment: int) -> None:
    with pytest.raises(ValueError, match=str(moment)):
        rfc3339.text(moment)
