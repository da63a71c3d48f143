"""Next hops as a manager's registry knows them, taken in turn."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from functools import partial

from forwarder.api.connection_pb2 import Connection
from forwarder.clock import Clock
from forwarder.errors import EndpointNotFound, InvalidRequest
from forwarder.mesh.discover import Candidates, discover
from forwarder.mesh.round_robin import RoundRobin
from forwarder.rpc import Address, Channels
from forwarder.service.kept_urls import KeptUrls
from forwarder.service.next_hops import Target


class DiscoveredNextHops:
    """Asks the manager for every Request, so that a refresh finds an endpoint that has moved."""

    def __init__(self, channels: Channels, manager: str, clock: Clock) -> None:
        """`manager` is the URL of the registry API."""
        self._channels = channels
        self._manager = manager
        self._clock = clock
        self._turns = RoundRobin()
        self._urls = KeptUrls()

    @asynccontextmanager
    async def find(self, connection: Connection) -> AsyncIterator[Iterable[Target]]:
        """Gives the endpoints that may serve `connection`, one step of round robin for each that is taken."""
        async with self._channels.lend(self._manager) as channel:
            with ExitStack() as stack:
                async with discover(channel, connection, self._clock.now()) as found:
                    targets = self._targets(found, stack)
                yield self._turns.in_turn(connection.network_service, targets)

    def _targets(self, found: Candidates, stack: ExitStack) -> list[Target]:
        """Returns those of the endpoints that can be dialled; their URLs are kept until `stack` is unwound."""
        targets: list[Target] = []
        faults: list[str] = []
        for endpoint in found.endpoints:
            try:
                Address.parse(endpoint.url)
                url, let_go = self._urls.keep(endpoint.url)
            except InvalidRequest as error:
                faults.append(f"{endpoint.name}: {error}")
                continue
            stack.callback(let_go)
            targets.append(
                Target(
                    url=url,
                    endpoint_name=endpoint.name,
                    payload=found.payload,
                    keep=partial(self._keep, url),
                )
            )
        if not targets:
            raise EndpointNotFound("no endpoint that was found can be called", detail="; ".join(faults))
        return targets

    def _keep(self, url: str) -> Callable[[], None]:
        return self._urls.keep(url)[1]
