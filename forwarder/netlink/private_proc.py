"""A proc file system of our own, mounted nowhere, for those who see /proc/sys read-only.

Container runtimes mount /proc/sys read-only unless the container is privileged. Who may mount
(CAP_SYS_ADMIN) can have an instance with its own flags: it is opened here, not put into the tree,
and gone when the process ends.

Source: fsopen(2), fsconfig(2), fsmount(2); Linux 5.2 or newer.
"""

import ctypes
import functools
import os
from typing import Final

from forwarder.errors import NetlinkError

# The same on every architecture (asm-generic/unistd.h); glibc has had functions for them since 2.36 only.
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432

# linux/mount.h
_FSOPEN_CLOEXEC: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_MOUNT_ATTR_NOSUID: Final = 0x2
_MOUNT_ATTR_NODEV: Final = 0x4
_MOUNT_ATTR_NOEXEC: Final = 0x8

_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def directory() -> int:
    """Returns a descriptor of its root, opened at the first call and kept; raises NetlinkError."""
    context = _call("open a proc file system", _NR_FSOPEN, ctypes.c_char_p(b"proc"), _FSOPEN_CLOEXEC)
    try:
        _call("make a proc file system", _NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        flags = _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV | _MOUNT_ATTR_NOEXEC
        return _call("mount a proc file system", _NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, flags)
    finally:
        os.close(context)


def _call(what: str, number: int, *arguments: object) -> int:
    found = _libc.syscall(ctypes.c_long(number), *(_word(argument) for argument in arguments))
    if found < 0:
        raise NetlinkError(f"cannot {what} of our own, and /proc/sys is read-only", errno=ctypes.get_errno())
    return int(found)


def _word(argument: object) -> object:
    """Widens integers: what syscall(2) takes is read as long."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument
