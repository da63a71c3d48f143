"""A client: asks for vWires, keeps them alive, and closes them.

```python
client = Client(name="nsc", connect_to="unix:///nsm.sock", netns=netns)
async with client.vwire(NetworkServiceURL.parse("kernel://web/nsm-1"), 0) as vwire:
    print(vwire.interface, vwire.addresses)
```

For as long as the context lasts the connection is refreshed before any token on its path
expires, and what the first hop says about it is followed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from forwarder.api import constants
from forwarder.api.connection_pb2 import DOWN, Connection, State
from forwarder.api.mechanisms import Memif, View
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.api.path import copy
from forwarder.api.x509 import Identity
from forwarder.clock import Clock, SystemClock
from forwarder.connection import current
from forwarder.connection.monitor import adopt, follow, next_hop_selector
from forwarder.connection.refresh import keep_fresh
from forwarder.connection.shielded import shielded
from forwarder.errors import ForwarderError, InvalidRequest, NextHopError
from forwarder.mesh.endpoint import interface_name, unsigned_tokens, vouch
from forwarder.netns import Netns
from forwarder.rpc import Channel, NextHop, dial
from forwarder.security import NetworkServiceInput, Policies, TokenMetadata, TokenSource

MECHANISMS = (constants.KERNEL, constants.MEMIF)
MONITOR_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class ClientVwire:
    """A vWire as its client sees it."""

    def __init__(self, url: NetworkServiceURL, connection: Connection) -> None:
        self.url = url
        self.connection = connection
        """As last answered; the own segment is the first."""
        self.changed = asyncio.Event()
        """Set whenever `connection` is another; who waits for it clears it."""

    @property
    def name(self) -> str:
        """The connection's id."""
        return self.connection.id

    @property
    def interface(self) -> str:
        """Name of the kernel interface; empty for another mechanism."""
        mechanism = self.connection.mechanism
        return View(mechanism).name if mechanism.type == constants.KERNEL else ""

    @property
    def socket(self) -> str:
        """Name of the memif socket, in the client's namespace; empty for another mechanism."""
        mechanism = self.connection.mechanism
        return Memif(mechanism).socket_file if mechanism.type == constants.MEMIF else ""

    @property
    def addresses(self) -> list[str]:
        """Our own addresses on the vWire, with prefix length."""
        return list(self.connection.context.ip_context.src_ip_addrs)

    @property
    def peers(self) -> list[str]:
        """The endpoint's addresses."""
        return list(self.connection.context.ip_context.dst_ip_addrs)

    @property
    def state(self) -> str:
        """UP, DOWN, ..."""
        return State.Name(self.connection.state)

    def replace(self, connection: Connection) -> None:
        """Takes another view of the connection; tells in the log when its state changed."""
        if connection.state != self.connection.state:
            level = logging.WARNING if connection.state == DOWN else logging.INFO
            _log.log(level, "vWire %s is %s", self.name, State.Name(connection.state))
        self.connection = connection
        self.changed.set()


class Client:
    """Makes vWires for one namespace through one first hop."""

    def __init__(
        self,
        *,
        name: str,
        connect_to: str,
        netns: Netns,
        labels: Mapping[str, str] | None = None,
        dial_timeout_s: float = 5.0,
        request_timeout_s: float = 15.0,
        identity: Identity | None = None,
        tokens: TokenSource | None = None,
        policies: Policies | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Borrows `netns`. `labels` are added to those of each URL, which win.

        With an `identity` every call is TLS, and `tokens` should be signed by it.
        Without `tokens` the client vouches for itself by unsigned ones, which only an insecure
        mesh takes; without `policies` every answer is taken.
        """
        self.name = name
        self._connect_to = connect_to
        self._netns = netns
        self._labels = dict(labels or {})
        self._dial_timeout_s = dial_timeout_s
        self._request_timeout_s = request_timeout_s
        self._clock = clock or SystemClock()
        self._tokens = tokens or unsigned_tokens(name, self._clock)
        self._policies = policies
        self._identity = identity

    @asynccontextmanager
    async def vwire(self, url: NetworkServiceURL, number: int) -> AsyncIterator[ClientVwire]:
        """Makes the client's vWire number `number`, and closes it on leaving.

        The connection id is `<name>-<number>`, the same after a restart, so that a vWire that
        an earlier run left is taken over. Raises InvalidRequest for a mechanism we cannot offer,
        NextHopError when the first hop cannot be reached or refuses, and NotAuthorized or PolicyError
        if policies do not allow its answer; the connection is closed again then.
        """
        request = self._first_request(url, number)
        token = current.connection_id.set(request.connection.id)
        try:
            vwire = ClientVwire(url, await self._request(request))
        except BaseException as error:
            # The first hop may have made it, and the answer was lost or is not allowed.
            if not isinstance(error, NextHopError) or error.status in ("DEADLINE_EXCEEDED", "CANCELLED"):
                await self._close(request.connection)
            raise
        finally:
            current.connection_id.reset(token)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_fresh(vwire), name=f"refresh {vwire.name}"),
                    group.create_task(self._follow(vwire), name=f"monitor {vwire.name}"),
                ]
                try:
                    yield vwire
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            await self._close(vwire.connection)

    def _first_request(self, url: NetworkServiceURL, number: int) -> NetworkServiceRequest:
        if url.mechanism not in MECHANISMS:
            raise InvalidRequest(
                f"network service URL {str(url)!r}: mechanism {url.mechanism} is not known to this client",
                hint=f"it knows {', '.join(MECHANISMS).lower()}",
            )
        request = url.request(f"{self.name}-{number}")
        for label, value in self._labels.items():
            if label not in request.connection.labels:
                request.connection.labels[label] = value
        preference = View(request.mechanism_preferences[0])
        preference.inode_url = self._netns_url()
        if url.mechanism == constants.KERNEL:
            name = preference.name or interface_name(url.network_service)
            if len(name.encode()) > constants.INTERFACE_NAME_BYTES:
                raise InvalidRequest(
                    f"network service URL {str(url)!r}: interface name {name!r} is longer than "
                    f"{constants.INTERFACE_NAME_BYTES} bytes"
                )
            preference.name = name
        request.connection.path.path_segments.add(name=self.name, id=request.connection.id)
        return request

    def _dial(self) -> AbstractAsyncContextManager[Channel]:
        credentials = TokenMetadata(self._tokens)
        return dial(self._connect_to, timeout_s=self._dial_timeout_s, credentials=credentials, identity=self._identity)

    def _netns_url(self) -> str:
        return f"file:///proc/self/fd/{self._netns.fileno()}"

    async def _request(self, request: NetworkServiceRequest) -> Connection:
        """Sends a Request after vouching for our own segment anew, and asks the policies about the answer."""
        async with self._dial() as channel:
            vouch(request.connection.path.path_segments[0], self._tokens.token(channel.tls_peer))
            answer = await NextHop(channel).request(request, timeout_s=self._request_timeout_s)
            if self._policies:
                await self._policies.check(NetworkServiceInput.of_answer(answer.path, 0, channel.tls_peer))
            return answer

    async def _keep_fresh(self, vwire: ClientVwire) -> None:
        current.connection_id.set(vwire.name)
        preferences = [copy(vwire.connection.mechanism)]

        async def refresh() -> None:
            request = NetworkServiceRequest(connection=vwire.connection, mechanism_preferences=preferences)
            vwire.replace(await self._request(request))

        await keep_fresh(clock=self._clock, connection=lambda: vwire.connection, request=refresh)

    async def _follow(self, vwire: ClientVwire) -> None:
        """Listens to what the first hop says about the vWire, for as long as it lasts."""
        current.connection_id.set(vwire.name)

        async def changed(theirs: Connection) -> None:
            vwire.replace(adopt(theirs, vwire.connection))

        while True:
            try:
                async with (
                    self._dial() as channel,
                    NextHop(channel).monitor(next_hop_selector(vwire.connection)) as events,
                ):
                    await follow(events, lambda: vwire.connection, changed)
            except ForwarderError as error:
                _log.info("the first hop's events cannot be followed: %s", error)
            await self._clock.sleep(MONITOR_RETRY_S)

    async def _close(self, connection: Connection) -> None:
        """Closes, with a deadline of its own and in spite of cancellation; a failure is logged."""

        async def close() -> None:
            async with self._dial() as channel:
                await NextHop(channel).close(connection, timeout_s=self._request_timeout_s)

        try:
            await shielded(close(), self._dial_timeout_s + self._request_timeout_s)
        except (ForwarderError, TimeoutError) as error:
            _log.warning("closing vWire %s failed: %s", connection.id, error)


def describe(vwire: ClientVwire) -> str:
    """Writes what a user wants to know of a vWire, on one line."""
    where = vwire.interface or vwire.socket
    addresses = ", ".join(vwire.addresses) or "no addresses"
    peers = ", ".join(vwire.peers) or "no addresses"
    return (
        f"{vwire.name}: {vwire.connection.mechanism.type.lower()} {where} to {vwire.url.network_service} "
        f"({vwire.connection.network_service_endpoint_name}), {addresses}, peer {peers}, "
        f"MTU {vwire.connection.context.MTU or 'not given'}"
    )
