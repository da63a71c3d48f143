"""Kernel interfaces: links, addresses, routes, rules, neighbours. Knows no NSM words."""

from forwarder.netlink.channel import Channel

__all__ = ["Channel"]
