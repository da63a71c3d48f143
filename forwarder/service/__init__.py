"""The forwarder: takes Requests, calls the next hop, and joins two ports to a vWire.

forwarder = Forwarder(name="fwd", mechanisms={"KERNEL": kernel, "MEMIF": memif}, vwires=dataplane,
                      next_hops=ConfiguredNextHops(default="unix:///nse.sock"))
async with forwarder, serve(forwarder.services(), [url]):
    await forever
"""

from forwarder.service.discovered import DiscoveredNextHops
from forwarder.service.next_hops import ConfiguredNextHops, NextHops, NextServer, Target
from forwarder.service.server import Forwarder
from forwarder.service.statistics import ConnectionStatus, ForwarderStatistics

__all__ = [
    "ConfiguredNextHops",
    "ConnectionStatus",
    "DiscoveredNextHops",
    "Forwarder",
    "ForwarderStatistics",
    "NextHops",
    "NextServer",
    "Target",
]
