"""The file that a profile of the data plane's knobs is kept in.

A flat YAML mapping; a knob that it leaves out has its default. `vwire tune` writes it, with a
comment on each knob.

```yaml
workers: 1
worker_cpus: [1]
poll_window: 50us
stall_limit: 20ms
memif_ring_slots: 1024
memif_buffer_bytes: 2048
```

Every error says file, line, knob, and what was expected.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from forwarder.config import WorkerSettings, format_duration, parse_duration
from forwarder.errors import ConfigError
from forwarder.tuning import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """How one knob stands in the file."""

    field: str
    """Its name in `Profile`."""
    meaning: str
    read: Callable[[Any], Any]
    """Makes the value of what YAML has; raises ValueError that says what was expected."""
    written: Callable[[Any], str] = str


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"not a whole number from {low} to {high}")
        return value

    return read


def _power_of_two(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value.bit_count() != 1 or not low <= value <= high:
            raise ValueError(f"not a power of two from {low} to {high}")
        return value

    return read


def _duration(low: str, high: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        expected = f"not a duration from {low} to {high}, such as 50us or 20ms"
        if not isinstance(value, str) and (value != 0 or value is False):  # YAML has 0 as a number
            raise ValueError(expected)
        try:
            seconds = parse_duration(str(value))
        except ValueError:
            raise ValueError(expected) from None
        if not parse_duration(low) <= seconds <= parse_duration(high):
            raise ValueError(expected)
        return seconds

    return read


def _cpus(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int and 0 <= each < 4096 for each in value):
        raise ValueError("not a list of CPU numbers, such as [1] or [2, 3]")
    if len(set(value)) != len(value):
        raise ValueError("it names a CPU twice")
    return tuple(value)


KNOBS: Final[Mapping[str, Knob]] = {
    "workers": Knob(field="workers", meaning="threads that carry frames", read=_whole(1, 64)),
    "worker_cpus": Knob(
        field="worker_cpus",
        meaning="CPUs to pin the workers to, one each; [] leaves them where the kernel puts them",
        read=_cpus,
        written=lambda value: f"[{', '.join(map(str, value))}]",
    ),
    "poll_window": Knob(
        field="poll_window_s",
        meaning="how long a worker that ran out of frames polls before it sleeps",
        read=_duration("0", "1s"),
        written=format_duration,
    ),
    "stall_limit": Knob(
        field="stall_limit_s",
        meaning="how long frames wait in a memif for room on the other side before they are dropped",
        read=_duration("1ms", "10s"),
        written=format_duration,
    ),
    "memif_ring_slots": Knob(
        field="memif_ring_slots",
        meaning="frames in each ring of a memif whose memory is ours",
        read=_power_of_two(256, 16384),
    ),
    "memif_buffer_bytes": Knob(
        field="memif_buffer_bytes", meaning="bytes in each of its slots", read=_whole(2048, 65535)
    ),
}
assert {knob.field for knob in KNOBS.values()} == {field.name for field in fields(Profile)}


def load(path: Path) -> Profile:
    """Reads a profile. Raises ConfigError that names file, line, knob and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"profile {path} cannot be read", detail=str(error)) from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Profile:
    """Reads the text of a profile; `source` is for messages. Raises ConfigError."""
    import yaml  # noqa: PLC0415 - takes longer to import than all of this room, and few have a profile

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"profile {source} is not YAML", detail=" ".join(str(error).split())) from error
    if root is None:
        return Profile()
    if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
        raise ConfigError(f"profile {source}", detail="it is not a mapping of knobs to values")
    found: dict[str, Any] = {}
    for key, _ in root.value:
        name, line = key.value, key.start_mark.line + 1
        if name not in KNOBS:
            _refuse(source, line, name, f"there is no such knob; there are {', '.join(KNOBS)}")
        knob = KNOBS[name]
        if knob.field in found:
            _refuse(source, line, name, "it is there twice")
        try:
            found[knob.field] = knob.read(values[name])
        except ValueError as error:
            _refuse(source, line, name, f"{values[name]!r} is {error}")
    return Profile(**found)


def _refuse(source: str, line: int, name: str, why: str) -> NoReturn:
    raise ConfigError(f"profile {source}, line {line}: {name}", detail=why)


def in_force(settings: WorkerSettings) -> Profile:
    """Returns the knobs of the profile that the settings name, under what a flag or variable sets by itself.

    Raises ConfigError for a profile that cannot be used.
    """
    profile = load(Path(settings.profile)) if settings.profile else Profile()
    own = {"workers": "workers", "worker_cpus": "worker_cpus", "poll_window": "poll_window_s"}
    given = {field: getattr(settings, name) for name, field in own.items() if name in settings.model_fields_set}
    return replace(profile, **given)


def texts(profile: Profile) -> dict[str, str]:
    """Returns every knob as the file has it."""
    return {name: knob.written(getattr(profile, knob.field)) for name, knob in KNOBS.items()}


def dump(profile: Profile, *, origin: str) -> str:
    """Writes a profile with a comment on every knob; `origin` says in one line where the values come from."""
    lines = [f"# {origin}", "# Use it with: NSM_PROFILE=FILE vwire forwarder, or vwire up --profile FILE.", ""]
    for name, text in texts(profile).items():
        lines += [f"# {KNOBS[name].meaning}", f"{name}: {text}"]
    return "\n".join(lines) + "\n"
