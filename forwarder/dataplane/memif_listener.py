"""Listens where memif clients connect: one socket per address, any number of interfaces behind it.

An address is listened on from the first interface that wants it until the last has gone. Nothing
that connects is trusted: whoever does not introduce itself in time, or when too many wait at the
door, is sent away, the oldest first, so that waiting ones cannot lock others out.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
from typing import Final, Protocol

from forwarder.dataplane.memif_control import Interface, InterfaceChosen, Limits, MemifServer
from forwarder.dataplane.memif_socket import MemifChannel, open_control_socket, socket_address
from forwarder.errors import DataplaneError

log = logging.getLogger(__name__)

BACKLOG: Final = 128
HALF_OPEN_MAX: Final = 64
"""Connections that have not shown an interface id and its secret, per listener."""
_ACCEPTS_PER_WAKE: Final = 32
_PAUSE_S: Final = 0.1
"""How long accepting rests when the process has no descriptor left."""

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
                    raise _cannot_listen(address, error) from error
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
            raise _cannot_listen(address, error) from error
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
        self._file: tuple[int, int] | None = None
        self._made_directories: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._sock = sock
        try:
            self._bind()
            self._sock.listen(BACKLOG)
        except OSError as error:
            self._sock.close()
            self._remove_directories()
            if isinstance(error, DataplaneError):
                raise
            raise _cannot_listen(address, error) from error
        self._loop.add_reader(self._sock, self._accept_some)

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
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for channel in list(self._half_open):
            channel.disconnect("closed")
        if self._file is not None and _file_id(self.address) == self._file:
            os.unlink(self.address)
        self._remove_directories()

    def _accept_some(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, _address = self._sock.accept()
            except BlockingIOError:
                return
            except (ConnectionAbortedError, InterruptedError):
                continue
            except OSError as error:
                log.warning("memif socket %s: cannot accept: %s", self.address, error.strerror)
                self._loop.remove_reader(self._sock)
                self._pause = self._loop.call_later(_PAUSE_S, self._loop.add_reader, self._sock, self._accept_some)
                return
            self._greet(sock)

    def _greet(self, sock: socket.socket) -> None:
        sock.setblocking(False)
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

    def _bind(self) -> None:
        """Binds the socket; for a file, readable and writable by owner and group only."""
        target = socket_address(self.address)
        if self.address.startswith("@"):
            self._sock.bind(target)
            return
        self._make_directories()
        # The mode of the unbound socket becomes the file's, so that it is never wider than this.
        os.fchmod(self._sock.fileno(), 0o660)
        try:
            self._sock.bind(target)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._remove_stale(target):
                raise
            self._sock.bind(target)
        os.chmod(self.address, 0o660)
        self._file = _file_id(self.address)

    def _remove_stale(self, target: bytes) -> bool:
        """Removes a socket file behind which nobody listens; leaves everything else alone."""
        if not stat.S_ISSOCK(os.lstat(self.address).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            probe.setblocking(False)
            try:
                probe.connect(target)
            except ConnectionRefusedError:
                os.unlink(self.address)
                log.info("memif socket %s: removed a file that nobody listened on", self.address)
                return True
            except OSError:  # alive, of another kind or busy
                return False
        return False

    def _make_directories(self) -> None:
        """Makes the missing directories above a socket file, open to nobody else."""
        parent = os.path.dirname(os.path.abspath(self.address))
        missing = []
        while not os.path.exists(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        for path in reversed(missing):
            os.mkdir(path, 0o700)
            self._made_directories.append(path)

    def _remove_directories(self) -> None:
        """Removes the directories that we made, as far as nobody else uses them."""
        while self._made_directories:
            try:
                os.rmdir(self._made_directories.pop())
            except OSError:
                return


def _cannot_listen(address: str, error: OSError) -> DataplaneError:
    return DataplaneError(f"cannot listen on memif socket {address}", errno=error.errno or 0)


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
