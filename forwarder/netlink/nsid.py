"""Numbers by which one namespace knows another, so that its links can be looked at from outside.

A number says nothing about the namespace's life: it holds nothing open, and goes with it.

Source: rtnetlink(7), linux/net_namespace.h, net/core/net_namespace.c.
"""

from typing import Final

from pyroute2.netlink.rtnl import RTM_GETNSID, RTM_NEWNSID

from forwarder.netlink.channel import Channel
from forwarder.netlink.request import Message, Request

_NOT_ASSIGNED: Final = 0xFFFFFFFF
"""-1, read without a sign."""


def question(netns_fd: int) -> Request:
    """Asks for the number of a namespace."""
    what = f"ask for the number of namespace {netns_fd}"
    return Request(type=RTM_GETNSID, attributes=(("NETNSA_FD", netns_fd),), what=what)


def order(netns_fd: int) -> Request:
    """Gives a namespace a number, any."""
    attributes = (("NETNSA_FD", netns_fd), ("NETNSA_NSID", _NOT_ASSIGNED))
    return Request(type=RTM_NEWNSID, attributes=attributes, what=f"number namespace {netns_fd}")


def known(channel: Channel, netns_fd: int) -> int | None:
    """Returns the number by which the channel's namespace knows another; None when it has none for it."""
    for message in channel.ask(question(netns_fd)):
        found = number(message)
        if found is not None:
            return found
    return None


def assign(channel: Channel, netns_fd: int) -> int:
    """Returns the number by which the channel's namespace knows another, giving it one first if need be."""
    if (found := known(channel, netns_fd)) is not None:
        return found
    # May fail because somebody else was quicker: what counts is that there is one.
    channel.attempt([order(netns_fd)])
    found = known(channel, netns_fd)
    assert found is not None
    return found


def number(message: Message) -> int | None:
    """Reads the number in an RTM_NEWNSID or RTM_DELNSID message; None when it says that there is none."""
    found = message.get_attr("NETNSA_NSID", _NOT_ASSIGNED)
    return None if found == _NOT_ASSIGNED else int(found)
