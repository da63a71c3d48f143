"""Values are read the way Go programs read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder import config


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("750ms", 0.75),
        ("10m", 600.0),
        ("1h2m3.5s", 3723.5),
        ("50us", 50e-6),
        ("50µs", 50e-6),
        ("0", 0.0),
        ("1.s", 1.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("-2s", -2.0),
    ],
)
def test_durations_of_go_are_seconds(text, seconds):
    assert config.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "1 s", "10 minutes", "1d", "abc", "1s ", "--1s"])
def test_what_go_refuses_as_a_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        config.parse_duration(text)


@given(st.integers(min_value=0, max_value=10**13))
def test_a_duration_written_and_read_is_the_same(microseconds):
    seconds = microseconds / 1e6
    assert config.parse_duration(config.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(600, "10m"), (0.75, "750ms"), (50e-6, "50us"), (0, "0s"), (90, "90s"), (86400, "24h")]
)
def test_durations_are_written_short(seconds, text):
    assert config.format_duration(seconds) == text


def test_truth_values_of_go():
    assert all(config.parse_bool(text) for text in ("1", "t", "T", "TRUE", "true", "True"))
    assert not any(config.parse_bool(text) for text in ("0", "f", "F", "FALSE", "false", "False"))
    with pytest.raises(ValueError, match="not one of"):
        config.parse_bool("yes")


def test_lists_and_maps():
    assert config.parse_list("a, b,c") == ("a", "b", "c")
    assert config.parse_list("") == ()
    assert config.parse_map("p2p:true,at:10:20") == {"p2p": "true", "at": "10:20"}
    with pytest.raises(ValueError, match="is not key:value"):
        config.parse_map("p2p")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("169.254.0.0/16", (("169.254.0.0/16",),)),
        ("10.0.0.0/24,fd00::/64", (("10.0.0.0/24",), ("fd00::/64",))),
        ("[10.0.0.0/31,10.1.0.0/31],[fd00::/64],10.2.0.0/31", (
            ("10.0.0.0/31", "10.1.0.0/31"), ("fd00::/64",), ("10.2.0.0/31",))),
        ("", ()),
    ],
)  # fmt: skip
def test_groups(text, groups):
    assert config.parse_groups(text) == groups


@pytest.mark.parametrize("text", ["[a", "[a]b", "a]", "[a,[b]]", "a,,b"])
def test_groups_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"'\['|','|form"):
        config.parse_groups(text)
