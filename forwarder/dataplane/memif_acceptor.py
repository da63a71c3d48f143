"""A listening memif socket: an abstract name or a file, and whoever connects to it.

It judges nobody: every connection goes to its owner.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from forwarder.dataplane.memif_socket import socket_address
from forwarder.errors import DataplaneError

log = logging.getLogger(__name__)

BACKLOG: Final = 128
_PAUSE_S: Final = 0.1
"""How long accepting rests when the process has no descriptor left."""


class MemifAcceptor:
    """One listening socket. Must be made on the event loop's thread."""

    def __init__(self, address: str, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        """Listens with `sock` and owns it; `accepted` owns each socket that it is given, which does not block.

        Raises DataplaneError when the address cannot be bound.
        """
        self.address = address
        self._sock = sock
        self._accepted = accepted
        self._file: tuple[int, int] | None = None
        self._made_directories: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        try:
            self._bind()
            self._sock.listen(BACKLOG)
        except OSError as error:
            self._sock.close()
            self._remove_directories()
            if isinstance(error, DataplaneError):
                raise
            raise cannot_listen(address, error) from error
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Stops listening, and removes the socket file we made."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._file is not None and _file_id(self.address) == self._file:
            os.unlink(self.address)
        self._remove_directories()

    def _accept(self) -> None:
        """Takes one connection; others have it called again."""
        try:
            sock, _address = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            log.warning("memif socket %s: cannot accept: %s", self.address, error.strerror)
            self._loop.remove_reader(self._sock.fileno())
            self._pause = self._loop.call_later(_PAUSE_S, self._loop.add_reader, self._sock.fileno(), self._accept)
            return
        sock.setblocking(False)
        self._accepted(sock)

    def _bind(self) -> None:
        """Binds the socket; for a file, readable and writable by owner and group only."""
        target = socket_address(self.address)
        if self.address.startswith("@"):
            self._sock.bind(target)
            return
        # The mode of the unbound socket becomes the file's, so that it is never wider than this.
        os.fchmod(self._sock.fileno(), 0o660)
        try:
            self._sock.bind(target)
        except FileNotFoundError:
            self._make_directories()
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


def cannot_listen(address: str, error: OSError) -> DataplaneError:
    """Makes the error for an address that cannot be listened on."""
    return DataplaneError(f"cannot listen on memif socket {address}", errno=error.errno or 0)


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
