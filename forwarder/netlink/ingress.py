"""A filter that drops whatever arrives on a link, before the kernel's own stack sees it.

Packet sockets look at a frame before the filter does, so a frame that the data plane takes from
a link is taken by nobody else: no answer to ARP or ping, no broadcast reaching a program here.
The filter is an eBPF program of two instructions, loaded once and shared by all links: that is done
here, for pyroute2 attaches programs and loads none.

Source: tc-bpf(8), bpf(2), linux/pkt_sched.h, linux/pkt_cls.h; net/core/dev.c runs taps before tc.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import threading
from typing import Final

from pyroute2.netlink.rtnl import RTM_NEWQDISC, RTM_NEWTFILTER, TC_H_CLSACT

from forwarder.errors import NetlinkError
from forwarder.netlink.request import EXCLUSIVE, Request

_DIRECT_ACTION: Final = 1
_INGRESS_FILTERS: Final = 0xFFFFFFF2
_CLSACT_HANDLE: Final = 0xFFFF0000
_PRIORITY: Final = 1
_ETH_P_ALL: Final = 0x0003

_BPF_PROG_LOAD: Final = 5
_BPF_PROG_TYPE_SCHED_CLS: Final = 3
_TC_ACT_SHOT: Final = 2
_SYSCALL_BPF: Final = {"x86_64": 321, "aarch64": 280}

# r0 = TC_ACT_SHOT; exit
_PROGRAM: Final = struct.pack("=BBhi", 0xB7, 0, 0, _TC_ACT_SHOT) + struct.pack("=BBhi", 0x95, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)


class DropFilter:
    """The loaded program. Closing it leaves the links that have it filtered."""

    def __init__(self) -> None:
        """Loads nothing yet: the first use does, on the thread that uses it."""
        self._fd = -1
        self._lock = threading.Lock()

    def attach(self, index: int) -> list[Request]:
        """Asks for the filter on a link that has no queueing discipline for ingress yet.

        It goes when the link goes. Raises NetlinkError when the kernel does not load the program.
        """
        with self._lock:
            if self._fd < 0:
                self._fd = _load()
        what = f"drop what arrives on link {index}"
        return [
            Request(
                type=RTM_NEWQDISC,
                flags=EXCLUSIVE,
                fields={"index": index, "handle": _CLSACT_HANDLE, "parent": TC_H_CLSACT},
                attributes=(("TCA_KIND", "clsact"),),
                what=f"{what} (add clsact)",
            ),
            Request(
                type=RTM_NEWTFILTER,
                flags=EXCLUSIVE,
                fields={
                    "index": index,
                    "handle": 1,
                    "parent": _INGRESS_FILTERS,
                    "info": _PRIORITY << 16 | socket.htons(_ETH_P_ALL),
                },
                attributes=(
                    ("TCA_KIND", "bpf"),
                    (
                        "TCA_OPTIONS",
                        (
                            ("TCA_BPF_FD", self._fd),
                            ("TCA_BPF_NAME", "drop"),
                            ("TCA_BPF_FLAGS", _DIRECT_ACTION),
                        ),
                    ),
                ),
                what=f"{what} (add filter)",
            ),
        ]

    def close(self) -> None:
        """Gives the program's descriptor back; does nothing the second time."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _load() -> int:
    number = _SYSCALL_BPF.get(platform.machine())
    what = "cannot load the filter that drops what arrives on a link"
    if number is None:
        raise NetlinkError(what, errno=errno.ENOSYS, detail=f"no number of bpf(2) for {platform.machine()}")
    instructions = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    # union bpf_attr of BPF_PROG_LOAD up to its name: type, count, instructions, licence,
    # log level, log size, log, kernel version, flags, name
    order = ctypes.create_string_buffer(
        struct.pack(
            "=IIQQIIQII16s",
            _BPF_PROG_TYPE_SCHED_CLS,
            len(_PROGRAM) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            0,
            0,
            0,
            0,
            0,
            b"vwire_drop",
        )
    )
    fd = _libc.syscall(number, _BPF_PROG_LOAD, ctypes.byref(order), ctypes.sizeof(order) - 1)
    if fd < 0:
        refused = ctypes.get_errno()
        hint = "this needs CAP_BPF and CAP_NET_ADMIN" if refused == errno.EPERM else ""
        raise NetlinkError(what, errno=refused, hint=hint)
    return int(fd)
