"""The SPIFFE Workload API, served and called.

It runs without TLS, since it is where the certificates for TLS come from; a caller shows by a
header that it means to call it, which a request that was tricked into coming here has not.

Source: SPIFFE Workload API, sections 4 to 6.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import grpc

from forwarder.api import workload_pb2
from forwarder.api.workload_pb2 import (
    X509BundlesRequest,
    X509BundlesResponse,
    X509SVIDRequest,
    X509SVIDResponse,
)
from forwarder.errors import InvalidRequest
from forwarder.rpc import status, workload_pb2_grpc
from forwarder.rpc.call import Call
from forwarder.rpc.channel import Channel
from forwarder.rpc.services import Running, Service, stream

HEADER: Final = ("workload.spiffe.io", "true")


class WorkloadHandler(Protocol):
    """Tells one workload who it is. Its generators are closed when the caller leaves."""

    def svids(self) -> AsyncGenerator[X509SVIDResponse, None]:
        """Yields the certificates of the workload and whom it trusts, now and after every change."""
        ...

    def bundles(self) -> AsyncGenerator[X509BundlesResponse, None]:
        """Yields whom the workload trusts, now and after every change."""
        ...


def workload_api(handler: WorkloadHandler) -> Service:
    """Serves the Workload API's X.509 methods by `handler`; the others are UNIMPLEMENTED."""
    return Service(
        name=workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"].full_name,
        register=lambda server, running: workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(
            _WorkloadServicer(handler, running), server
        ),
    )


class _WorkloadServicer(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def __init__(self, handler: WorkloadHandler, running: Running) -> None:
        self._handler = handler
        self._running = running

    async def FetchX509SVID(  # type: ignore[override]  # writes its answers itself  # noqa: N802 - gRPC's name
        self, request: X509SVIDRequest, context: "grpc.aio.ServicerContext[X509SVIDRequest, X509SVIDResponse]"
    ) -> None:
        def answers(call: Call) -> AsyncGenerator[X509SVIDResponse, None]:
            _need_header(call)
            return self._handler.svids()

        await stream(self._running, context, "/SpiffeWorkloadAPI/FetchX509SVID", answers)

    async def FetchX509Bundles(  # type: ignore[override]  # writes its answers itself  # noqa: N802 - gRPC's name
        self, request: X509BundlesRequest, context: "grpc.aio.ServicerContext[X509BundlesRequest, X509BundlesResponse]"
    ) -> None:
        def answers(call: Call) -> AsyncGenerator[X509BundlesResponse, None]:
            _need_header(call)
            return self._handler.bundles()

        await stream(self._running, context, "/SpiffeWorkloadAPI/FetchX509Bundles", answers)


def _need_header(call: Call) -> None:
    name, value = HEADER
    if call.values(name) != (value,):
        raise InvalidRequest(f"{call.method} without metadata {name}: {value}")


class WorkloadApi:
    """Calls a Workload API over a channel without TLS."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel.grpc)

    @asynccontextmanager
    async def svids(self) -> AsyncIterator[AsyncIterator[X509SVIDResponse]]:
        """Opens the stream of our certificates and of whom to trust; leaving ends it.

        The stream raises NextHopError when it breaks.
        """
        call = self._stub.FetchX509SVID(X509SVIDRequest(), metadata=grpc.aio.Metadata(HEADER))
        try:
            yield self._answers(call)
        finally:
            call.cancel()

    async def _answers(
        self, call: "grpc.aio.UnaryStreamCall[X509SVIDRequest, X509SVIDResponse]"
    ) -> AsyncIterator[X509SVIDResponse]:
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise status.next_hop_error(error, f"FetchX509SVID from {self._channel.address}") from error
