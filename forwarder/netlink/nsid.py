"""Numbers by which one namespace knows another, so that its links can be looked at from outside.

A number says nothing about the namespace's life: it holds nothing open, and goes with it.

Source: rtnetlink(7), linux/net_namespace.h, net/core/net_namespace.c.
"""

import struct
from typing import Final

from forwarder.netlink.channel import Channel
from forwarder.netlink.message import Request, attribute, parse_attributes, u32

RTM_NEWNSID: Final = 88
RTM_DELNSID: Final = 89
RTM_GETNSID: Final = 90

NETNSA_NSID: Final = 1
_NETNSA_FD: Final = 3
_FIXED: Final = bytes(4)  # struct rtgenmsg, padded
_NOT_ASSIGNED: Final = -1


def known(channel: Channel, netns_fd: int) -> int | None:
    """Returns the number by which the channel's namespace knows another; None when it has none for it."""
    what = f"ask for the number of namespace {netns_fd}"
    request = Request(type=RTM_GETNSID, flags=0, body=_FIXED + u32(_NETNSA_FD, netns_fd), what=what)
    for message in channel.execute([request])[0]:
        found = number(message.body)
        if found is not None:
            return found
    return None


def assign(channel: Channel, netns_fd: int) -> int:
    """Returns the number by which the channel's namespace knows another, giving it one first if need be."""
    if (found := known(channel, netns_fd)) is not None:
        return found
    body = _FIXED + u32(_NETNSA_FD, netns_fd) + attribute(NETNSA_NSID, struct.pack("=i", _NOT_ASSIGNED))
    # May fail because somebody else was quicker: what counts is that there is one.
    channel.attempt([Request(type=RTM_NEWNSID, flags=0, body=body, what=f"number namespace {netns_fd}")])
    found = known(channel, netns_fd)
    assert found is not None
    return found


def number(body: bytes) -> int | None:
    """Decodes the number in an RTM_NEWNSID or RTM_DELNSID message; None when it says that there is none."""
    payload = parse_attributes(body, len(_FIXED)).get(NETNSA_NSID, b"")
    found = int(struct.unpack("=i", payload)[0]) if len(payload) == 4 else _NOT_ASSIGNED
    return None if found == _NOT_ASSIGNED else found
