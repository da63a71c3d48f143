"""Listening sockets for the URLs of a server, and what has to make way for them."""

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from forwarder.errors import ConfigError
from forwarder.rpc.address import Address, Family

BACKLOG: Final = 1024


@contextmanager
def listening(address: Address) -> Iterator[tuple[socket.socket, Address]]:
    """Listens on a unix or TCP address; yields the socket, non-blocking, and the address as it was bound.

    On leaving, the socket is closed and a unix socket's file is gone. Raises ConfigError if the
    address is taken or cannot be bound.
    """
    with _socket(address) as listener:
        if address.family is Family.TCP:
            yield listener, Address(family=Family.TCP, host=address.host, port=listener.getsockname()[1])
            return
        with at_path(Path(address.path)):
            yield listener, address


@contextmanager
def at_path(path: Path) -> Iterator[None]:
    """Opens the socket file that was bound at `path` to everybody; on leaving, it is gone."""
    ours = path.stat().st_ino
    try:
        path.chmod(0o777)  # clients run as anybody
        yield
    finally:
        if path.exists() and path.stat().st_ino == ours:
            path.unlink()


def _socket(address: Address) -> socket.socket:
    try:
        if address.family is Family.TCP:
            listener = _tcp(address)
        else:
            make_way(Path(address.path))
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                listener.bind(address.path)
                listener.listen(BACKLOG)
            except BaseException:
                listener.close()
                raise
    except OSError as error:
        raise ConfigError(f"listen on {address}", detail=error.strerror or str(error)) from error
    listener.setblocking(False)
    return listener


def _tcp(address: Address) -> socket.socket:
    """Listens on one address of the host, or on all of this machine's if it names none."""
    if not address.host and socket.has_dualstack_ipv6():
        everywhere = ("::", address.port)
        return socket.create_server(everywhere, family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=socket.SOCK_STREAM)  # noqa: S104
    family, _, _, _, where = found[0]
    return socket.create_server(where[:2], family=family, backlog=BACKLOG)


def make_way(path: Path) -> None:
    """Makes the directory of a unix socket, and removes a socket that nobody answers on.

    Raises ConfigError if `path` is something else, or somebody answers.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigError(f"listen on {path}: a file that is not a socket is there")
        if _answers(path):
            raise ConfigError(f"listen on {path}: another process listens there")
        path.unlink()
    except OSError as error:
        raise ConfigError(f"listen on {path}", detail=error.strerror or str(error)) from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its backlog is full
        except ConnectionRefusedError:
            return False
        return True
