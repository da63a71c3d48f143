"""Kernel settings under /proc/sys/net of the calling thread's network namespace.

Source: proc_sys_net(5), Documentation/networking/ip-sysctl.rst.
"""

from pathlib import Path
from typing import Final

from forwarder.errors import NetlinkError

_ROOT: Final = Path("/proc/sys/net")


def read(name: str) -> str:
    """Returns a setting, by its path below net: "ipv4/ping_group_range"."""
    try:
        return (_ROOT / name).read_text().strip()
    except OSError as error:
        raise NetlinkError(f"cannot read setting net/{name}", errno=error.errno or 0) from error


def write(name: str, value: str) -> None:
    """Changes a setting, unless it has this value already; white space between numbers is the same."""
    if read(name).split() == value.split():
        return
    try:
        (_ROOT / name).write_text(value)
    except OSError as error:
        raise NetlinkError(f"cannot set net/{name} to {value!r}", errno=error.errno or 0) from error
