"""Kernel settings under /proc/sys/net of the calling thread's network namespace.

Source: proc_sys_net(5), Documentation/networking/ip-sysctl.rst.
"""

import errno
import os

from forwarder.errors import NetlinkError
from forwarder.netlink import private_proc


def read(name: str) -> str:
    """Returns a setting, by its path below net: "ipv4/ping_group_range"."""
    try:
        with open(f"/proc/sys/net/{name}") as file:
            return file.read().strip()
    except OSError as error:
        raise NetlinkError(f"cannot read setting net/{name}", errno=error.errno or 0) from error


def write(name: str, value: str) -> None:
    """Changes a setting, unless it has this value already; white space between numbers is the same.

    Where /proc/sys is read-only, as in a container, it goes through a proc file system of our own.
    """
    if read(name).split() == value.split():
        return
    try:
        try:
            file = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            file = os.open(f"sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=private_proc.directory())
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise NetlinkError(f"cannot set net/{name} to {value!r}", errno=error.errno or 0) from error
