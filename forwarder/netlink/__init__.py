"""Kernel interfaces: namespaces, links, addresses, routes, rules, neighbours. Knows no NSM words."""

from forwarder.netlink.channel import Channel
from forwarder.netlink.netns import Netns, call_in, run_in
from forwarder.netlink.netns_watch import NetnsWatch

__all__ = ["Channel", "Netns", "NetnsWatch", "call_in", "run_in"]
