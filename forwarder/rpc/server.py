"""Serving: listen URLs, health, reflection, and an end that finishes what was begun."""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forwarder.api.x509 import Identity
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.rpc import options
from forwarder.rpc.address import Address, Family
from forwarder.rpc.front import Front
from forwarder.rpc.listen import listening
from forwarder.rpc.services import Running, Service
from forwarder.rpc.tls import TlsIdentity

AsyncHealthServicer = health.aio.HealthServicer  # type: ignore[attr-defined]  # not in its stub

DRAIN_S: Final = 5.0
"""How long running RPCs may take once a server is asked to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is listening."""

    addresses: tuple[Address, ...]
    """Where, in the order asked for; a TCP port of 0 has become the one that was bound."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses as URLs."""
        return tuple(map(str, self.addresses))


@asynccontextmanager
async def serve(
    services: Sequence[Service],
    listen_on: Sequence[str],
    *,
    identity: Identity | None = None,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[Server]:
    """Serves `services`, health and reflection for as long as the context lasts.

    `listen_on` holds `unix:///path` and `tcp://host:port` URLs. A unix socket's directory is made
    if missing, a stale socket removed, its mode becomes 0777 as clients run as anybody.
    With an `identity`, every address takes only peers that prove theirs by TLS, and shows ours as it
    is at the time; without, everybody. Open files pass beside the messages on unix sockets.
    Health is SERVING for "" and for each service.
    On leaving, new RPCs are refused, unary ones may finish within `drain_s`, then what still runs
    is cancelled and waited for, and the sockets are gone.
    Raises ConfigError if an address cannot be listened on; then nothing is.
    """
    server = grpc.aio.server(options=options.SERVER)
    running = Running()
    servicer = AsyncHealthServicer()
    async with AsyncExitStack() as stack:
        try:
            bound = [stack.enter_context(_bound(server, url, secured=identity is not None)) for url in listen_on]
            listeners = [listener for _, listener in bound if listener is not None]
            if listeners:
                inner = Path(stack.enter_context(TemporaryDirectory(prefix="vwire-"))) / "grpc"
                _add_port(server, f"unix:{inner}", str(inner))
                running.front = Front(inner, TlsIdentity(identity) if identity is not None else None)
        except BaseException:
            # gRPC closes the ports of a server only if it was started. It offers nothing yet.
            await _wholly(server.start())
            await _wholly(server.stop(None))
            raise
        names = [service.name for service in services]
        for service in services:
            service.register(server, running)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        for name in ("", *names):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        try:
            await _wholly(server.start())
            with running.front.accepting(listeners) if running.front is not None else nullcontext():
                yield Server(addresses=tuple(address for address, _ in bound))
        finally:
            await _wholly(_stop(server, servicer, running, drain_s))


@contextmanager
def _bound(server: grpc.aio.Server, url: str, *, secured: bool) -> Iterator[tuple[Address, socket.socket | None]]:
    """Binds one listen URL; yields what was bound, and a socket if peers are not to reach gRPC itself.

    That is so where there is TLS, and on unix sockets, for the open files.
    """
    try:
        address = Address.parse(url)
    except InvalidRequest as error:
        raise ConfigError(f"listen on {url}", detail=str(error)) from error
    if address.family is Family.INODE:
        raise ConfigError(f"listen on {url}: names a socket that exists already")
    if address.family is Family.UNIX or secured:
        with listening(address) as (listener, bound):
            yield bound, listener
    else:
        wildcard = Address(family=Family.TCP, host=address.host or "::", port=address.port)
        port = _add_port(server, wildcard.host_port, url)
        yield Address(family=Family.TCP, host=address.host, port=port), None


def _add_port(server: grpc.aio.Server, target: str, url: str) -> int:
    try:
        port = server.add_insecure_port(target)
    except RuntimeError as error:
        raise ConfigError(f"listen on {url}", detail=str(error)) from error
    if port == 0:
        raise ConfigError(f"listen on {url}: {target} could not be bound")
    return port


async def _wholly(step: Coroutine[Any, Any, None]) -> None:
    """Runs a step to its end also when the caller is cancelled: gRPC cannot stop what half started, nor again."""
    running = asyncio.ensure_future(step)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def _stop(server: grpc.aio.Server, servicer: Any, running: Running, drain_s: float) -> None:
    await servicer.enter_graceful_shutdown()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.stop(drain_s))
        try:
            # Streams have no end of their own: they do not hold the server up.
            async with asyncio.timeout(drain_s):
                await running.idle.wait()
        except TimeoutError:
            pass
        await server.stop(0)
    # gRPC has forgotten the RPCs; their handlers may still be undoing things.
    left = set(running.tasks)
    for task in left:
        if not task.cancelling():  # a second time would interrupt the undoing
            task.cancel()
    if left:
        await asyncio.wait(left)
    if running.front is not None:
        await running.front.aclose()
