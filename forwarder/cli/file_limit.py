"""How many files the process may have open, raised at the start: a vWire takes up to eight."""

import contextlib
import logging
import resource
from typing import Final

WANTED: Final = 131_072
"""Room for 10,000 memif vWires, whose two ends take a listening and a connected socket and two eventfds each."""
PER_VWIRE: Final = 8

_log = logging.getLogger("vwire")


def raise_file_limit(wanted: int = WANTED) -> int:
    """Raises the limit of open files to `wanted`, or as far as may be; returns what it is now.

    The hard limit is raised too where that is allowed (CAP_SYS_RESOURCE). Says in the log what the
    limit is, and warns when it will not do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    for limits in ((wanted, max(wanted, hard)), (hard, hard)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            break
    now = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if now >= wanted:
        _log.info("up to %d open files (%d before)", now, soft)
    else:
        _log.warning(
            "up to %d open files (%d before): room for some %d memif vWires; more need a higher hard limit"
            " (ulimit -Hn, LimitNOFILE=)",
            now, soft, now // PER_VWIRE,
        )  # fmt: skip
    return now
