"""Points in time as text: RFC 3339, to the nanosecond.

A point in time is an int here, nanoseconds since the epoch, within what a protobuf Timestamp
holds: years 1 to 9999.
"""

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from forwarder.errors import InvalidRequest

_NANOSECONDS: Final = 1_000_000_000
_FORM: Final = re.compile(
    r"(?P<date>\d{4}-\d{2}-\d{2})[Tt](?P<time>\d{2}:\d{2}:\d{2})(?:\.(?P<fraction>\d{1,9})\d*)?"
    r"(?:(?P<utc>[Zz])|(?P<sign>[+-])(?P<hours>\d{2}):(?P<minutes>\d{2}))",
    re.ASCII,
)
EARLIEST: Final = calendar.timegm((1, 1, 1, 0, 0, 0)) * _NANOSECONDS
LATEST: Final = calendar.timegm((9999, 12, 31, 23, 59, 59)) * _NANOSECONDS + _NANOSECONDS - 1


def parse(text: str) -> int:
    """Parses `2026-01-02T03:04:05.678901234+02:00`; digits beyond the ninth are cut off.

    Raises InvalidRequest for what is no date and time of RFC 3339, section 5.6. A leap second is
    read as the second before it.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"time {text!r}: not as RFC 3339 has it", hint="as in 2026-01-02T03:04:05Z")
    time = match["time"]
    if time.endswith(":60"):
        time = time[:-2] + "59"
    try:
        moment = datetime.fromisoformat(f"{match['date']}T{time}+00:00")
        if match["utc"] is None:
            offset = timedelta(hours=_below(24, match["hours"]), minutes=_below(60, match["minutes"]))
            moment -= offset if match["sign"] == "+" else -offset
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"time {text!r}: no such time", detail=str(error)) from error
    return calendar.timegm(moment.utctimetuple()) * _NANOSECONDS + int((match["fraction"] or "").ljust(9, "0"))


def _below(limit: int, text: str) -> int:
    value = int(text)
    if value >= limit:
        raise ValueError(f"offset part {text} is not below {limit}")
    return value


def text(moment: int) -> str:
    """Writes a point in time in UTC, without trailing zeros in the fraction, as Go does.

    Raises ValueError outside the years 1 to 9999.
    """
    if not EARLIEST <= moment <= LATEST:
        raise ValueError(f"{moment} ns since the epoch is not within the years 1 to 9999")
    seconds, nanoseconds = divmod(moment, _NANOSECONDS)
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    fraction = f".{nanoseconds:09}".rstrip("0").rstrip(".")
    return f"{whole.isoformat().removesuffix('+00:00')}{fraction}Z"
