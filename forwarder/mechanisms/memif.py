"""MEMIF: shared memory between an application and us.

Towards the caller we listen, inside the caller's network namespace, on an abstract socket whose
name we choose and put into the answer; the application connects when it likes. Towards the next
hop we connect to the name the endpoint put into its answer, inside the namespace it names, and
keep trying. An `inodeURL` that is a socket file stands for that file instead, on either side.
Payload IP means packets that start at the IP header, anything else whole Ethernet frames.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, Protocol

from forwarder.api import connection_pb2, constants
from forwarder.api.context import Side
from forwarder.api.mechanisms import Memif
from forwarder.dataplane import Port
from forwarder.dataplane.spec import MemifPortSpec, Mode, Role
from forwarder.errors import DataplaneError, InvalidRequest
from forwarder.mechanisms import inode_url
from forwarder.netlink import Netns, run_in

_SUN_PATH_BYTES: Final = 108
_OTHER_NAMES: Final = 3
"""How often another name is tried when somebody in the namespace holds ours."""


class MemifPorts(Protocol):
    """What this mechanism needs of the data plane."""

    def memif_port(self, spec: MemifPortSpec) -> AbstractAsyncContextManager[Port]:
        """Opens a memif port for as long as the context lasts."""
        ...


class MemifOpenPort:
    """One open end: a port, and where its socket is."""

    def __init__(self, side: Side, port: Port, spec: MemifPortSpec, place: "_Place", name: str) -> None:
        self.port = port
        self.interface = f"{constants.MEMIF}/{name}"
        self._side = side
        self._spec = spec
        self._place = place

    def serves(self, connection: connection_pb2.Connection) -> bool:
        """Says whether socket, namespace and payload are still those that are asked for."""
        view = Memif.of(connection.mechanism)
        if view is None or _mode(connection) is not self._spec.mode:
            return False
        if self._side is Side.ENDPOINT and not self._place.is_file and view.socket_file != self._spec.address:
            return False
        return self._place.is_meant_by(view)

    async def update(self, connection: connection_pb2.Connection) -> None:
        """Tells a caller that asks again where the socket is; there is nothing else to keep up."""
        if self._side is Side.CLIENT:
            self._place.tell(connection, self._spec.address)


class MemifMechanism:
    """Opens memif ports."""

    type = constants.MEMIF

    def __init__(self, dataplane: MemifPorts, *, directory: str = "", allow_unsealed: bool = False) -> None:
        """`directory` starts the names of our sockets; TMPDIR, or /tmp, when empty.

        `allow_unsealed` lets peers share memory that they could truncate, as zero-copy DPDK and
        VPP do.
        """
        self._dataplane = dataplane
        self._directory = directory or os.environ.get("TMPDIR", "") or "/tmp"  # noqa: S108 - a name, not a file
        self._allow_unsealed = allow_unsealed

    def preference(self, connection: connection_pb2.Connection) -> connection_pb2.Mechanism:
        """Returns MEMIF without parameters: the endpoint names the socket and its namespace."""
        return Memif.new().mechanism

    def check(self, mechanism: connection_pb2.Mechanism, side: Side) -> None:
        """Raises InvalidRequest when the namespace, or the endpoint's socket, is missing or malformed."""
        view = Memif.of(mechanism)
        if view is None:
            raise InvalidRequest(f"mechanism {mechanism.type} is not {constants.MEMIF}")
        if not view.inode_url:
            raise InvalidRequest(f"mechanism {constants.MEMIF}: parameter inodeURL is missing")
        target = inode_url.parse(view.inode_url)
        if side is Side.ENDPOINT and not view.socket_file and not isinstance(target, str):
            raise InvalidRequest(f"mechanism {constants.MEMIF}: parameter socketfile is missing")
        if side is Side.ENDPOINT and view.socket_file and not _fits(view.socket_file):
            raise InvalidRequest(
                f"mechanism {constants.MEMIF}: parameter socketfile {view.socket_file!r} is not a socket's name"
            )

    @asynccontextmanager
    async def open(self, side: Side, connection: connection_pb2.Connection) -> AsyncIterator[MemifOpenPort]:
        """Opens the port; it does not wait for the application.

        Raises InvalidRequest for a namespace that is not there, NetlinkError when it may not be
        entered, DataplaneError when the socket cannot be made.
        """
        self.check(connection.mechanism, side)
        view = Memif(connection.mechanism)
        async with AsyncExitStack() as stack:
            place = await run_in(None, lambda: _find(view.inode_url), discard=_Place.close)
            stack.callback(place.close)
            if side is Side.CLIENT:
                port, spec = await self._listen(stack, place, connection)
                place.tell(connection, spec.address)
            else:
                port, spec = await self._connect(stack, place, connection)
            yield MemifOpenPort(side, port, spec, place, view.name or spec.name)

    async def _listen(
        self, stack: AsyncExitStack, place: "_Place", connection: connection_pb2.Connection
    ) -> tuple[Port, MemifPortSpec]:
        """Listens at a file that the caller made for us, or at an abstract name of our own."""
        spec = self._spec(Role.SERVER, place.file or self._name(connection.id), place, connection)
        for _ in range(0 if place.is_file else _OTHER_NAMES):
            try:
                return await stack.enter_async_context(self._dataplane.memif_port(spec)), spec
            except DataplaneError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            # Anyone in the namespace can hold a name, and so can our own former port for this
            # connection, which is closed only after this one works.
            address = self._name(f"{connection.id}.{secrets.token_hex(4)}")
            spec = self._spec(Role.SERVER, address, place, connection)
        return await stack.enter_async_context(self._dataplane.memif_port(spec)), spec

    async def _connect(
        self, stack: AsyncExitStack, place: "_Place", connection: connection_pb2.Connection
    ) -> tuple[Port, MemifPortSpec]:
        address = place.file or Memif(connection.mechanism).socket_file
        if not address:
            raise InvalidRequest(
                f"mechanism {constants.MEMIF}: parameter socketfile is missing, and inodeURL is no socket file"
            )
        spec = self._spec(Role.CLIENT, address, place, connection)
        return await stack.enter_async_context(self._dataplane.memif_port(spec)), spec

    def _spec(self, role: Role, address: str, place: "_Place", connection: connection_pb2.Connection) -> MemifPortSpec:
        return MemifPortSpec(
            role=role,
            address=address,
            netns=None if place.netns is None else place.netns.fileno(),
            mode=_mode(connection),
            allow_unsealed=self._allow_unsealed,
        )

    def _name(self, part: str) -> str:
        """Returns an abstract socket's name with `part` in it, or a digest of it when it does not fit."""
        name = f"@{self._directory}/memif/{part}/memif.socket"
        if _fits(name):
            return name
        return f"@{self._directory}/memif/{hashlib.sha256(part.encode()).hexdigest()[:32]}/memif.socket"


class _Place:
    """What an `inodeURL` leads to: a namespace, held open, or a socket file."""

    def __init__(self, *, netns: Netns | None = None, file: str = "") -> None:
        self.netns = netns
        self.file = file

    @property
    def is_file(self) -> bool:
        return bool(self.file)

    def is_meant_by(self, view: Memif) -> bool:
        """Says whether the URL leads to the same place again."""
        if self.netns is None:
            return inode_url.parse(view.inode_url) == self.file
        return inode_url.means(view.inode_url, self.netns.identity)

    def tell(self, connection: connection_pb2.Connection, address: str) -> None:
        """Writes where we listen into the mechanism's parameters; a file is known already."""
        if not self.is_file:
            Memif(connection.mechanism).socket_file = address

    def close(self) -> None:
        if self.netns is not None:
            self.netns.close()


def _find(url: str) -> _Place:
    """Opens what `url` leads to; may look through /proc, so not for the event loop's thread."""
    target = inode_url.parse(url)
    if isinstance(target, str) and _is_socket(target):
        return _Place(file=target)
    return _Place(netns=inode_url.open_netns(url))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _fits(name: str) -> bool:
    """Says whether a name can be that of a unix socket: `@` and printable ASCII, or an absolute path."""
    if not (name.startswith(("@", "/")) and len(name) > 1):
        return False
    if name.startswith("/"):
        return "\0" not in name and len(os.fsencode(name)) < _SUN_PATH_BYTES
    return name.isascii() and name.isprintable() and len(name) <= _SUN_PATH_BYTES


def _mode(connection: connection_pb2.Connection) -> Mode:
    return Mode.IP if connection.payload == constants.IP else Mode.ETHERNET
