"""Carries frames: ports, and the vWires that join them, run by compiled workers."""

from forwarder.dataplane.allocation import allocations
from forwarder.dataplane.counters import DROP_SENTENCES
from forwarder.dataplane.dataplane import Dataplane
from forwarder.dataplane.memif_port import ConnectedMemifPort
from forwarder.dataplane.port import Port
from forwarder.dataplane.port_io import PortIO
from forwarder.dataplane.spec import KernelPortSpec, MemifPortSpec, Mode, Offload, Role
from forwarder.dataplane.statistics import (
    DataplaneStatistics,
    FlowStatistics,
    Histogram,
    PortStatistics,
    VwireStatistics,
    WorkerStatistics,
)
from forwarder.dataplane.vwire import Vwire

__all__ = [
    "DROP_SENTENCES",
    "ConnectedMemifPort",
    "Dataplane",
    "DataplaneStatistics",
    "FlowStatistics",
    "Histogram",
    "KernelPortSpec",
    "MemifPortSpec",
    "Mode",
    "Offload",
    "Port",
    "PortIO",
    "PortStatistics",
    "Role",
    "Vwire",
    "VwireStatistics",
    "WorkerStatistics",
    "allocations",
]
