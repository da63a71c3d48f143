"""What every port shows to Python."""

import os

from libc.errno cimport EBUSY

from forwarder.dataplane.atomics cimport load_acquire32, load_relaxed64

from forwarder.dataplane.statistics import PortStatistics
from forwarder.errors import DataplaneError


cdef class Port:
    """An end that the data plane can receive from and send to.

    `wire` is what runs it, a Vwire or a PortIO, or None; only one thing at a time can.
    `on_fault` is called, on control's thread and at most once per connection, when the port broke
    under the worker's hands.
    """

    @property
    def connected(self):
        """Frames can pass."""
        cdef uint32_t state = load_acquire32(&self.c.state)
        return bool(state & PORT_CONNECTED) and not state & PORT_DEAD

    @property
    def dead(self):
        """The port broke; `fault` says why."""
        return bool(load_acquire32(&self.c.state) & PORT_DEAD)

    @property
    def fault(self):
        """Why the port is dead, in words; empty while it is not."""
        if not self.dead:
            return ""
        return self.describe_fault(load_acquire32(&self.c.fault))

    @property
    def ip_mode(self):
        """Frames start at the IP header, not at the Ethernet header."""
        return bool(self.c.flags & PORT_IP)

    def statistics(self):
        """Returns a snapshot of the port's own counters."""
        return PortStatistics(
            connected=self.connected,
            polls=load_relaxed64(&self.c.polls),
            kicks=load_relaxed64(&self.c.kicks),
            missed=load_relaxed64(&self.c.missed),
        )

    def take(self, runner):
        """Makes `runner` the one that runs the port; raises DataplaneError if there is another."""
        if self.wire is not None and self.wire is not runner:
            raise DataplaneError(f"port {self!r} is already run by {self.wire!r}", errno=EBUSY)
        self.wire = runner

    def leave(self, runner):
        """Undoes `take`; does nothing for anyone but the runner."""
        if self.wire is runner:
            self.wire = None

    def tell_fault(self):
        """Calls `on_fault` if the port is dead, once per connection. Control's thread only."""
        if not self.dead:
            self.told = False
        elif not self.told:
            self.told = True
            if self.on_fault is not None:
                self.on_fault(self.fault)

    cdef str describe_fault(self, uint32_t fault):
        """Gives a fault in words; port kinds with codes of their own override it."""
        return os.strerror(fault) if fault else "the port broke"
