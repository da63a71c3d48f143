"""Listens where memif clients connect: one socket per address, any number of interfaces behind it.

An address is listened on from the first interface that wants it until the last has gone. Nothing
that connects is trusted: whoever does not introduce itself in time, or when too many wait at the
door, is sent away, the oldest first, so that waiting ones cannot lock others out.
"""

import asyncio
import errno
import os
import socket
from typing import Final, Protocol

from forwarder.dataplane.memif_acceptor import MemifAcceptor, cannot_listen
from forwarder.dataplane.memif_control import Interface, InterfaceChosen, Limits, MemifServer
from forwarder.dataplane.memif_socket import MemifChannel, open_control_socket
from forwarder.errors import DataplaneError

HALF_OPEN_MAX: Final = 64
"""Connections that have not shown an interface id and its secret, per listener."""

_Key = tuple[object, ...]


class Claimant(Protocol):
    """The owner of one interface behind a listener."""

    interface: Interface

    def claim(self, channel: MemifChannel, event: InterfaceChosen) -> None:
        """Takes a channel whose peer knows the id and the secret; raises RemoteProtocolError to refuse."""
        ...


class MemifListeners:
    """All listening sockets of one data plane, by address and network namespace."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._listeners: dict[_Key, MemifListener] = {}
        self._opening = asyncio.Lock()

    async def join(self, address: str, netns: int | None, claimant: Claimant) -> "MemifListener":
        """Adds an interface behind `address`, listening there from now on at the latest.

        Raises DataplaneError when the address cannot be listened on or the id is taken there.
        """
        async with self._opening:
            key = self._key(address, netns)
            listener = self._listeners.get(key)
            if listener is None:
                try:
                    sock = await open_control_socket(netns)
                except OSError as error:
                    raise cannot_listen(address, error) from error
                listener = MemifListener(address, sock, self._limits)
                self._listeners[key] = listener
            listener.add(claimant)
        return listener

    def _key(self, address: str, netns: int | None) -> _Key:
        """Returns what two ports share when they share a socket."""
        if not address.startswith("@"):
            return (os.path.realpath(address),)
        try:
            found = os.stat("/proc/self/ns/net") if netns is None else os.fstat(netns)
        except OSError as error:
            raise cannot_listen(address, error) from error
        return address, found.st_dev, found.st_ino

    def leave(self, listener: "MemifListener", claimant: Claimant) -> None:
        """Takes an interface away; the last one closes the socket."""
        listener.remove(claimant)
        if not listener.claimants:
            listener.close()
            self._listeners = {key: other for key, other in self._listeners.items() if other is not listener}


class MemifListener:
    """One listening socket."""

    def __init__(self, address: str, sock: socket.socket, limits: Limits) -> None:
        """Listens with `sock` and owns it. Raises DataplaneError when the address cannot be bound."""
        self.address = address
        self.claimants: dict[int, Claimant] = {}
        self._limits = limits
        self._half_open: dict[MemifChannel, None] = {}
        self._loop = asyncio.get_running_loop()
        self._acceptor = MemifAcceptor(address, sock, self._greet)

    def add(self, claimant: Claimant) -> None:
        """Puts an interface behind the socket. Raises DataplaneError when its id is taken."""
        interface_id = claimant.interface.interface_id
        if interface_id in self.claimants:
            raise DataplaneError(
                f"memif socket {self.address} already has an interface {interface_id}", errno=errno.EADDRINUSE
            )
        self.claimants[interface_id] = claimant

    def remove(self, claimant: Claimant) -> None:
        """Takes an interface away."""
        del self.claimants[claimant.interface.interface_id]

    def close(self) -> None:
        """Stops listening, sends away who has not introduced itself, removes the socket file we made."""
        self._acceptor.close()
        for channel in list(self._half_open):
            channel.disconnect("closed")

    def _greet(self, sock: socket.socket) -> None:
        if len(self._half_open) >= HALF_OPEN_MAX:
            next(iter(self._half_open)).disconnect("too many connections without an introduction")
        end = MemifServer(self._find, now=self._loop.time(), limits=self._limits)
        channel = MemifChannel(sock, end, choose=self._choose)
        if not channel.closed:
            self._half_open[channel] = None
            channel.on_closed = self._forget

    def _find(self, interface_id: int) -> Interface | None:
        claimant = self.claimants.get(interface_id)
        return None if claimant is None else claimant.interface

    def _choose(self, channel: MemifChannel, event: InterfaceChosen) -> None:
        self._forget(channel)
        channel.on_closed = None
        self.claimants[event.interface.interface_id].claim(channel, event)

    def _forget(self, channel: MemifChannel) -> None:
        self._half_open.pop(channel, None)
