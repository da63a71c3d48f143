"""Who may serve a connection, by what a registry knows.

Source: Network Service Mesh sdk, `common/discover`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from forwarder.api.connection_pb2 import Connection
from forwarder.api.registry_pb2 import NetworkService, NetworkServiceEndpoint
from forwarder.errors import EndpointNotFound
from forwarder.mesh.matching import match_endpoints, unexpired
from forwarder.rpc import Channel, NetworkServiceEndpointRegistry, NetworkServiceRegistry

FIND_TIMEOUT_S: Final = 15.0
"""Longest wait for one answer of a registry, as NSM's programs have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Endpoints that may serve a connection; at least one."""

    endpoints: Sequence[NetworkServiceEndpoint]
    payload: str
    """The network service's; empty when the endpoint was asked for by its name."""


@asynccontextmanager
async def discover(channel: Channel, connection: Connection, now: float) -> AsyncIterator[Candidates]:
    """Asks the registry behind `channel` who may serve `connection` at `now`, seconds since the epoch.

    A connection that names its endpoint gets that one. Otherwise the network service's matches
    decide among its endpoints, by the connection's labels.
    URLs that name an open file, which came with the answer, are good for as long as the context lasts.
    Raises EndpointNotFound that says what is missing, and NextHopError for what the registry did.
    """
    async with AsyncExitStack() as answers:
        yield await _candidates(channel, connection, now, answers)


async def _candidates(channel: Channel, connection: Connection, now: float, answers: AsyncExitStack) -> Candidates:
    if name := connection.network_service_endpoint_name:
        return Candidates(endpoints=[await _named(channel, name, answers)], payload="")
    service = await _service(channel, connection)
    pattern = NetworkServiceEndpoint(network_service_names=[service.name])
    registered = await _endpoints(channel, pattern, answers)
    alive = unexpired(registered, now)
    matching = match_endpoints(connection.labels, service, alive)
    if not matching:
        raise EndpointNotFound(
            f"no endpoint of the network service {service.name!r} for these labels",
            detail=f"{len(registered)} are registered, {len(alive)} of them not expired,"
            f" and the service has {len(service.matches)} matches;"
            f" labels: {', '.join(f'{key}={value}' for key, value in sorted(connection.labels.items())) or 'none'}",
        )
    return Candidates(endpoints=matching, payload=service.payload)


async def _service(channel: Channel, connection: Connection) -> NetworkService:
    name = connection.network_service
    pattern = NetworkService(name=name, payload=connection.payload)
    async with NetworkServiceRegistry(channel).find(pattern, timeout_s=FIND_TIMEOUT_S) as answers:
        async for answer in answers:
            if answer.network_service.name == name and not answer.deleted:
                return answer.network_service
    asked = f" with payload {connection.payload}" if connection.payload else ""
    raise EndpointNotFound(f"network service {name!r}{asked} is not registered")


async def _named(channel: Channel, name: str, answers: AsyncExitStack) -> NetworkServiceEndpoint:
    for endpoint in await _endpoints(channel, NetworkServiceEndpoint(name=name), answers):
        if endpoint.name == name:
            return endpoint
    raise EndpointNotFound(f"network service endpoint {name!r} is not registered")


async def _endpoints(
    channel: Channel, pattern: NetworkServiceEndpoint, answers: AsyncExitStack
) -> list[NetworkServiceEndpoint]:
    found = await answers.enter_async_context(
        NetworkServiceEndpointRegistry(channel).find(pattern, timeout_s=FIND_TIMEOUT_S)
    )
    return [answer.network_service_endpoint async for answer in found if not answer.deleted]
