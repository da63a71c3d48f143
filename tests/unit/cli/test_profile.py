"""The profile of knobs: what is written is read back, and what cannot be is told by line and knob."""

import pytest

from forwarder import config
from forwarder.cli.profile import KNOBS, dump, in_force, load, parse
from forwarder.errors import ConfigError
from forwarder.tuning import Profile

TUNED = Profile(
    workers=2,
    worker_cpus=(2, 3),
    poll_window_s=20e-6,
    stall_limit_s=0.035,
    memif_ring_slots=512,
    memif_buffer_bytes=9216,
)


def test_a_written_profile_is_read_back():
    text = dump(TUNED, origin="made by a test")
    assert parse(text, "test") == TUNED
    assert text.startswith("# made by a test\n")
    assert all(f"# {knob.meaning}\n{name}: " in text for name, knob in KNOBS.items())


def test_what_a_profile_leaves_out_has_its_default():
    assert parse("", "test") == Profile()
    assert parse("poll_window: 0", "test").poll_window_s == 0
    assert parse("memif_ring_slots: 256", "test") == Profile(memif_ring_slots=256)


def test_a_ring_is_told_to_memif_as_an_exponent():
    assert Profile(memif_ring_slots=4096).log2_ring_slots == 12


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workers: 0", "line 1: workers: 0 is not a whole number from 1 to 64"),
        ("workers: true", "line 1: workers: True is not a whole number"),
        ("\nworker_cpus: 1", "line 2: worker_cpus: 1 is not a list of CPU numbers"),
        ("worker_cpus: [1, -1]", "is not a list of CPU numbers"),
        ("worker_cpus: [1, 1]", "it names a CPU twice"),
        ("poll_window: 20", "line 1: poll_window: 20 is not a duration from 0 to 1s, such as 50us or 20ms"),
        ("poll_window: soon", "poll_window: 'soon' is not a duration"),
        ("stall_limit: 0s", "is not a duration from 1ms to 10s"),
        ("memif_ring_slots: 1000", "memif_ring_slots: 1000 is not a power of two from 256 to 16384"),
        ("memif_buffer_bytes: 1500", "is not a whole number from 2048 to 65535"),
        ("workers: 1\nburst: 32", "line 2: burst: there is no such knob; there are workers, worker_cpus"),
        ("workers: 1\nworkers: 2", "line 2: workers: it is there twice"),
        ("- workers", "it is not a mapping of knobs to values"),
        ("workers: [", "is not YAML"),
        ("1: 2", "line 1: 1: there is no such knob"),
        ("[workers]: 2", "is not YAML"),
        ("poll_window: false", "poll_window: False is not a duration"),
    ],
)
def test_a_wrong_profile_is_told_by_line_and_knob(text, told):
    with pytest.raises(ConfigError) as refused:
        parse(text, "knobs.yaml")
    assert str(refused.value).startswith("profile knobs.yaml")
    assert told in str(refused.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_told(tmp_path, content):
    path = tmp_path / "knobs.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"knobs\.yaml cannot be read"):
        load(path)


def test_a_setting_that_was_given_comes_before_the_profile(tmp_path, monkeypatch):
    path = tmp_path / "knobs.yaml"
    path.write_text(dump(TUNED, origin="test"))
    monkeypatch.setenv("NSM_PROFILE", str(path))
    monkeypatch.setenv("NSM_POLL_WINDOW", "50us")
    knobs = in_force(config.load(config.ForwarderSettings, {"workers": "1"}))
    assert (knobs.workers, knobs.poll_window_s) == (1, 50e-6)
    assert (knobs.worker_cpus, knobs.stall_limit_s, knobs.memif_ring_slots) == ((2, 3), 0.035, 512)


def test_defaults_of_profile_and_settings_are_the_same(monkeypatch):
    for name in ("NSM_PROFILE", "NSM_WORKERS", "NSM_WORKER_CPUS", "NSM_POLL_WINDOW"):
        monkeypatch.delenv(name, raising=False)
    settings = config.load(config.ForwarderSettings)
    profile = in_force(settings)
    assert profile == Profile()
    assert (profile.workers, profile.worker_cpus, profile.poll_window_s) == (
        settings.workers,
        settings.worker_cpus,
        settings.poll_window,
    )
