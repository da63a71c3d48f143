"""Kernel interfaces: namespaces, links, addresses, routes, rules, neighbours. Knows no NSM words."""

from forwarder.netlink.channel import Channel
from forwarder.netlink.netns import Netns, call_in, run_in

__all__ = ["Channel", "Netns", "call_in", "run_in"]
