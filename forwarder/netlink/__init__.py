"""Kernel interfaces: namespaces, links, addresses, routes, rules, neighbours. Knows no NSM words."""

from forwarder.netlink.netns import Netns, call_in, open_in, run_in

__all__ = ["Netns", "call_in", "open_in", "run_in"]
