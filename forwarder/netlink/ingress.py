"""What becomes of frames that arrive on a link, before the kernel's stack sees them: dropped, or sent out of another.

Packet sockets look at a frame before the filter does, so a frame that the data plane takes from
a link is taken by nobody else: no answer to ARP or ping, no broadcast reaching a program here.
The filters are eBPF programs of a few instructions; the one that drops is loaded once and shared by
all links. They are loaded here, for pyroute2 attaches programs and loads none. A link has one filter;
another takes its place between two frames, and the count of what filters dropped goes on.

Source: tc-bpf(8), bpf(2), bpf-helpers(7), linux/bpf.h, linux/pkt_sched.h, linux/pkt_cls.h; net/core/dev.c runs
taps before tc.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from pyroute2.netlink import NLM_F_ECHO
from pyroute2.netlink.rtnl import RTM_GETQDISC, RTM_NEWQDISC, RTM_NEWTFILTER, TC_H_CLSACT

from forwarder.errors import NetlinkError
from forwarder.netlink.request import EXCLUSIVE, REPLACE, Message, Request

_DIRECT_ACTION: Final = 1
_INGRESS_FILTERS: Final = 0xFFFFFFF2
_CLSACT_HANDLE: Final = 0xFFFF0000
_PRIORITY: Final = 1
_ETH_P_ALL: Final = 0x0003

_BPF_PROG_LOAD: Final = 5
_BPF_PROG_TYPE_SCHED_CLS: Final = 3
_TC_ACT_SHOT: Final = 2
_SYSCALL_BPF: Final = {"x86_64": 321, "aarch64": 280}

_THERE_ALREADY: Final = frozenset({errno.EEXIST})
_NOTHING_THERE: Final = frozenset({errno.ENODEV, errno.ENOENT})

# linux/bpf.h: operation codes, struct __sk_buff, helper functions
_LOAD_WORD: Final = 0x61
_STORE_WORD: Final = 0x62
_COPY, _SET, _ADD = 0xBF, 0xB7, 0x07
_JUMP_IF_EQUAL, _JUMP_IF_OTHER = 0x15, 0x55
_CALL, _EXIT = 0x85, 0x95
_SKB_PROTOCOL, _SKB_VLAN_PRESENT = 16, 20
_SKB_STORE_BYTES, _REDIRECT = 9, 23
_STACK: Final = 10
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD


def _op(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, value)


_DROP: Final = _op(_SET, 0, value=_TC_ACT_SHOT) + _op(_EXIT)

_libc = ctypes.CDLL(None, use_errno=True)


class DropFilter:
    """The loaded program. Closing it leaves the links that have it filtered."""

    def __init__(self) -> None:
        """Loads nothing yet: the first use does, on the thread that uses it."""
        self._fd = -1
        self._lock = threading.Lock()

    def attach(self, index: int) -> list[Request]:
        """Asks for the filter on a link, in place of the one that it may have.

        It goes when the link goes. Raises NetlinkError when the kernel does not load the program.
        """
        with self._lock:
            if self._fd < 0:
                self._fd = _load(_DROP)
        return _attach(index, self._fd, "drop", f"drop what arrives on link {index}")

    def close(self) -> None:
        """Gives the program's descriptor back; does nothing the second time."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Hardware addresses of six bytes."""

    source: bytes
    destination: bytes


class Redirect:
    """A loaded program that sends whatever arrives on a link out of another one. To be closed once it is attached."""

    def __init__(self, target: int, packets: Addresses | None = None) -> None:
        """`target` is the index of the other link, in the same namespace.

        With `packets`, only IPv4 and IPv6 without a VLAN tag are sent on, with these addresses; the rest is
        dropped.
        Raises NetlinkError when the kernel does not load the program.
        """
        self._target = target
        self._fd = _load(_redirect(target, packets))

    def attach(self, index: int) -> list[Request]:
        """Asks for the filter on a link, in place of the one that it may have. It goes when the link goes."""
        what = f"send what arrives on link {index} out of link {self._target}"
        return _attach(index, self._fd, "redirect", what)

    def close(self) -> None:
        """Gives the program's descriptor back: links that have it keep it. Does nothing the second time."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _redirect(target: int, packets: Addresses | None) -> bytes:
    """Returns the program that sends frames out of a link, with a super-frame as one."""
    send = _op(_SET, 1, value=target) + _op(_SET, 2) + _op(_CALL, value=_REDIRECT) + _op(_EXIT)
    if packets is None:
        return send
    words = struct.unpack("=iii", packets.destination + packets.source)
    write = b"".join(_op(_STORE_WORD, _STACK, offset=4 * at - 12, value=word) for at, word in enumerate(words))
    # bpf_skb_store_bytes(skb, 0, stack - 12, 12, 0)
    store = (
        _op(_SET, 2) + _op(_COPY, 3, _STACK) + _op(_ADD, 3, value=-12) + _op(_SET, 4, value=12) + _op(_SET, 5)
        + _op(_CALL, value=_SKB_STORE_BYTES)
    )  # fmt: skip
    forward = write + store + send
    # The kernel has taken an outer tag off by now, and the protocol is that of what stands behind it.
    look = (
        _op(_LOAD_WORD, 2, 1, _SKB_VLAN_PRESENT)
        + _op(_JUMP_IF_OTHER, 2, offset=3)
        + _op(_LOAD_WORD, 2, 1, _SKB_PROTOCOL)
    )
    is_ipv4 = _op(_JUMP_IF_EQUAL, 2, offset=3, value=socket.htons(_ETH_P_IP))
    is_ipv6 = _op(_JUMP_IF_EQUAL, 2, offset=2, value=socket.htons(_ETH_P_IPV6))
    return look + is_ipv4 + is_ipv6 + _DROP + forward


def count_of_drops(index: int) -> Request:
    """Asks how many frames the filters of a link have dropped; there is no answer where there is none."""
    return Request(
        type=RTM_GETQDISC,
        flags=NLM_F_ECHO,  # before Linux 6.8 the answer goes to listeners only without it
        fields={"index": index, "parent": TC_H_CLSACT},
        what=f"ask what was dropped of what arrived on link {index}",
        tolerate=_NOTHING_THERE,
    )


def parse_drops(answer: Sequence[Message]) -> int:
    """Reads the answer of `count_of_drops`."""
    return int(answer[0].get_attr("TCA_STATS2", 0)) if answer else 0


def _attach(index: int, fd: int, name: str, what: str) -> list[Request]:
    return [
        Request(
            type=RTM_NEWQDISC,
            flags=EXCLUSIVE,
            fields={"index": index, "handle": _CLSACT_HANDLE, "parent": TC_H_CLSACT},
            attributes=(("TCA_KIND", "clsact"),),
            what=f"{what} (add clsact)",
            tolerate=_THERE_ALREADY,
        ),
        Request(
            type=RTM_NEWTFILTER,
            flags=REPLACE,
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
                        ("TCA_BPF_FD", fd),
                        ("TCA_BPF_NAME", name),
                        ("TCA_BPF_FLAGS", _DIRECT_ACTION),
                    ),
                ),
            ),
            what=f"{what} (set filter)",
        ),
    ]


def _load(program: bytes) -> int:
    number = _SYSCALL_BPF.get(platform.machine())
    what = "cannot load the filter for what arrives on a link"
    if number is None:
        raise NetlinkError(what, errno=errno.ENOSYS, detail=f"no number of bpf(2) for {platform.machine()}")
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    # union bpf_attr of BPF_PROG_LOAD up to its name: type, count, instructions, licence,
    # log level, log size, log, kernel version, flags, name
    order = ctypes.create_string_buffer(
        struct.pack(
            "=IIQQIIQII16s",
            _BPF_PROG_TYPE_SCHED_CLS,
            len(program) // 8,
            ctypes.addressof(instructions),
            ctypes.addressof(licence),
            0,
            0,
            0,
            0,
            0,
            b"vwire_ingress",
        )
    )
    fd = _libc.syscall(number, _BPF_PROG_LOAD, ctypes.byref(order), ctypes.sizeof(order) - 1)
    if fd < 0:
        refused = ctypes.get_errno()
        hint = "this needs CAP_BPF and CAP_NET_ADMIN" if refused == errno.EPERM else ""
        raise NetlinkError(what, errno=refused, hint=hint)
    return int(fd)
