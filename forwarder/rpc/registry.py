"""Registries called over a channel: what there is, who offers it, and what changes.

    registry = NetworkServiceEndpointRegistry(channel)
    registered = await registry.register(endpoint, path=path, timeout_s=15)
    async with registry.find(NetworkServiceEndpoint(network_service_names=["icmp"]), watch=True) as found:
        async for answer in found: ...

A path here is the private one of the registry API, JSON text in the metadata key `path`; it is
passed on as it is, for `security` to read. What a `unix://` URL of an endpoint becomes on the
wire is in `descriptors`.

Source: Network Service Mesh sdk, `pkg/registry/common/grpcmetadata`, `sendfd` and `recvfd`.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from forwarder.api.path import copy
from forwarder.api.registry_pb2 import (
    NetworkService,
    NetworkServiceEndpoint,
    NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse,
    NetworkServiceQuery,
    NetworkServiceResponse,
)
from forwarder.errors import InvalidRequest, RemoteProtocolError
from forwarder.rpc import descriptors, status
from forwarder.rpc.channel import Channel
from forwarder.rpc.registry_pb2_grpc import NetworkServiceEndpointRegistryStub, NetworkServiceRegistryStub

PATH: Final = "path"
"""Metadata key of the path, with the request and, initially, with the response."""

_FINDS: Final = itertools.count()

Sent = TypeVar("Sent", bound=Message)
M = TypeVar("M", bound=Message)
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered(Generic[M]):
    """What a registry made of a registration."""

    message: M
    path: str | None
    """The path as the registry returned it; None if it returned none."""


class NetworkServiceRegistry:
    """Registers and finds network services. Messages given are left unchanged."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._service = NetworkServiceRegistryStub(channel.grpc)

    async def register(
        self, service: NetworkService, *, path: str | None = None, timeout_s: float | None = None
    ) -> Registered[NetworkService]:
        """Adds a network service, or replaces the one of that name.

        Raises NextHopError with the registry's status and detail.
        """
        message, returned = await _unary(self._channel, self._service.Register, service, path, timeout_s, "Register")
        return Registered(message=message, path=returned)

    async def unregister(
        self, service: NetworkService, *, path: str | None = None, timeout_s: float | None = None
    ) -> str | None:
        """Removes a network service, and returns the path; one that is not known is no error.

        Raises NextHopError with the registry's status and detail.
        """
        _, returned = await _unary(self._channel, self._service.Unregister, service, path, timeout_s, "Unregister")
        return returned

    @asynccontextmanager
    async def find(
        self, pattern: NetworkService, *, watch: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator["Found[NetworkServiceResponse]"]:
        """Asks for the network services that match `pattern`; leaving the context ends it.

        What there is comes first. With `watch`, each change follows, until the context is left, and
        a removal is one with `deleted`; without, that was all.
        """
        query = NetworkServiceQuery(network_service=pattern, watch=watch)
        stream = self._service.Find(query, timeout=timeout_s, metadata=self._channel.metadata())
        try:
            yield Found(stream, NetworkServiceResponse, f"Find to {self._channel.address}")
        finally:
            stream.cancel()


class NetworkServiceEndpointRegistry:
    """Registers and finds endpoints. Messages given are left unchanged."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._service = NetworkServiceEndpointRegistryStub(channel.grpc)

    async def register(
        self, endpoint: NetworkServiceEndpoint, *, path: str | None = None, timeout_s: float | None = None
    ) -> Registered[NetworkServiceEndpoint]:
        """Adds an endpoint, or replaces the one of that name; that is how it is refreshed.

        A `unix://` URL is sent as `inode://`, and comes back as it was given.
        Raises NextHopError with the registry's status and detail, and InvalidRequest if the URL's
        socket is not there.
        """
        sent = copy(endpoint)
        sent.url = descriptors.sent_socket(self._channel.files(endpoint.name), endpoint.url)
        message, returned = await _unary(self._channel, self._service.Register, sent, path, timeout_s, "Register")
        if message.url == sent.url:
            message.url = endpoint.url
        return Registered(message=message, path=returned)

    async def unregister(
        self, endpoint: NetworkServiceEndpoint, *, path: str | None = None, timeout_s: float | None = None
    ) -> str | None:
        """Removes an endpoint, and returns the path; one that is not known is no error.

        Its URL's socket need not be there any more.
        Raises NextHopError with the registry's status and detail.
        """
        sent = copy(endpoint)
        try:
            sent.url = descriptors.sent_socket(self._channel.files(endpoint.name), endpoint.url)
        except InvalidRequest:
            sent.url = ""  # the name says which one is meant
        _, returned = await _unary(self._channel, self._service.Unregister, sent, path, timeout_s, "Unregister")
        return returned

    @asynccontextmanager
    async def find(
        self, pattern: NetworkServiceEndpoint, *, watch: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator["Found[NetworkServiceEndpointResponse]"]:
        """Asks for the endpoints that match `pattern`; leaving the context ends it.

        What there is comes first. With `watch`, each change follows, until the context is left, and
        a removal is one with `deleted`; without, that was all.
        URLs are ones that `dial` takes. One that names an open file of ours, `unix:///proc/<pid>/fd/<n>`,
        is good until the context is left or another answer comes about that endpoint; who needs
        it longer enters `held_socket(url)`.
        """
        query = NetworkServiceEndpointQuery(network_service_endpoint=pattern, watch=watch)
        stream = self._service.Find(query, timeout=timeout_s, metadata=self._channel.metadata())

        number = next(_FINDS)
        kept: dict[str, ExitStack] = {}

        async def receive(answer: NetworkServiceEndpointResponse) -> None:
            endpoint = answer.network_service_endpoint
            if (last := kept.pop(endpoint.name, None)) is not None:
                last.close()
            if not answer.deleted:
                files = self._channel.files(f"find {number} {endpoint.name}")
                stack = kept[endpoint.name] = ExitStack()
                stack.enter_context(files.kept())
                endpoint.url = await descriptors.received_socket(files, endpoint.url)

        try:
            yield Found(stream, NetworkServiceEndpointResponse, f"Find to {self._channel.address}", receive)
        finally:
            stream.cancel()
            for stack in kept.values():
                stack.close()


class Found(Generic[Answer]):
    """The answers of a Find, one after the other.

    Ends when the registry has told all; raises NextHopError when the stream breaks, and
    RemoteProtocolError for an answer that cannot be meant. Cancelling whoever waits for the next
    answer ends the stream too.
    """

    def __init__(
        self,
        stream: "grpc.aio.UnaryStreamCall[Any, Answer]",
        kind: type[Answer],
        what: str,
        receive: Callable[[Answer], Awaitable[None]] | None = None,
    ) -> None:
        self._stream = stream
        self._kind = kind
        self._what = what
        self._receive = receive

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer:
        try:
            answer = await self._stream.read()
        except grpc.aio.AioRpcError as error:
            raise status.next_hop_error(error, self._what) from error
        if not isinstance(answer, self._kind):
            raise StopAsyncIteration
        if self._receive is not None:
            try:
                await self._receive(answer)
            except InvalidRequest as error:
                raise RemoteProtocolError(
                    f"{self._what} was answered with an unusable URL", detail=str(error)
                ) from error
        return answer


async def _unary(
    channel: Channel,
    method: "grpc.aio.UnaryUnaryMultiCallable[Sent, Answer]",
    message: Sent,
    path: str | None,
    timeout_s: float | None,
    name: str,
) -> tuple[Answer, str | None]:
    """Makes one RPC with a path beside it; returns the answer and the path that came back."""
    metadata = channel.metadata()
    if path is not None:
        metadata.add(PATH, path)
    call = method(message, timeout=timeout_s, metadata=metadata)
    try:
        answer = await call
        returned = [value for key, value in await call.initial_metadata() if key == PATH]
    except grpc.aio.AioRpcError as error:
        raise status.next_hop_error(error, f"{name} to {channel.address}") from error
    return answer, str(returned[-1]) if returned else None
