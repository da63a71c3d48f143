"""A filter that drops whatever arrives on a link, before the kernel's own stack sees it.

Packet sockets look at a frame before the filter does, so a frame that the data plane takes from
a link is taken by nobody else: no answer to ARP or ping, no broadcast reaching a program here.
The filter is an eBPF program of two instructions, loaded once and shared by all links.

Source: tc-bpf(8), bpf(2), linux/pkt_sched.h, linux/pkt_cls.h; net/core/dev.c runs taps before tc.
"""

import ctypes
import errno
import os
import platform
import struct
import threading
from typing import Final

from forwarder.errors import NetlinkError
from forwarder.netlink.message import NLM_F_CREATE, NLM_F_EXCL, Request, nested, text, u32

_RTM_NEWQDISC: Final = 36
_RTM_NEWTFILTER: Final = 44

_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2
_TCA_BPF_FD: Final = 6
_TCA_BPF_NAME: Final = 7
_TCA_BPF_FLAGS: Final = 8
_TCA_BPF_FLAG_ACT_DIRECT: Final = 1
_TC_H_CLSACT: Final = 0xFFFFFFF1
_TC_H_INGRESS_FILTERS: Final = 0xFFFFFFF2
_CLSACT_HANDLE: Final = 0xFFFF0000
_PRIORITY: Final = 1
_ETH_P_ALL: Final = 0x0003
_FIXED: Final = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info

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
        qdisc = _FIXED.pack(0, index, _CLSACT_HANDLE, _TC_H_CLSACT, 0) + text(_TCA_KIND, "clsact")
        protocol = struct.unpack("=H", struct.pack("!H", _ETH_P_ALL))[0]
        program = (
            _FIXED.pack(0, index, 1, _TC_H_INGRESS_FILTERS, _PRIORITY << 16 | protocol)
            + text(_TCA_KIND, "bpf")
            + nested(
                _TCA_OPTIONS,
                u32(_TCA_BPF_FD, self._fd),
                text(_TCA_BPF_NAME, "drop"),
                u32(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT),
            )
        )
        flags = NLM_F_CREATE | NLM_F_EXCL
        what = f"drop what arrives on link {index}"
        return [
            Request(type=_RTM_NEWQDISC, flags=flags, body=qdisc, what=f"{what} (add clsact)"),
            Request(type=_RTM_NEWTFILTER, flags=flags, body=program, what=f"{what} (add filter)"),
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
