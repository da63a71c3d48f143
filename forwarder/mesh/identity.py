"""Identities over sockets: the Workload API of an authority served, and our own identity from one."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from forwarder.api.spiffe_id import SpiffeId
from forwarder.api.x509 import Identity
from forwarder.clock import Clock
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.rpc import Address, WorkloadApi, dial, serve, workload_api
from forwarder.security import Authority, Workload, follow


@asynccontextmanager
async def serve_workloads(authority: Authority, sockets: Mapping[str, str]) -> AsyncIterator[None]:
    """Serves the Workload API for each workload on a socket of its own, until the context is left.

    `sockets` maps SPIFFE IDs to `unix:///path`. Whoever reaches a socket is that workload and gets
    its key: the folder's mode says who that is. A folder that is not there yet is made for us alone.
    Raises ConfigError if an SVID cannot be issued or a socket cannot be listened on.
    """
    async with AsyncExitStack() as stack:
        for name, url in sockets.items():
            workload = Workload(authority, SpiffeId.parse(name))
            _make_folder(url)
            await stack.enter_async_context(serve([workload_api(workload)], [url]))
        yield


def _make_folder(url: str) -> None:
    path = Address.parse(url).path
    if not path:
        return
    folder = Path(path).parent
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"listen on {url}", detail=error.strerror or str(error)) from error


@asynccontextmanager
async def identity(endpoint: str, *, clock: Clock | None = None) -> AsyncIterator[Identity]:
    """Yields who we are as soon as the Workload API at `endpoint` says it, and follows what it says.

    `endpoint` is what SPIFFE_ENDPOINT_SOCKET says: `unix:///path` or `tcp://ip:port`. Waits without
    end for the first SVID, saying so in the log.
    Raises ConfigError for another endpoint and for an SVID that cannot sign tokens, and NextHopError
    if the Workload API calls our request invalid.
    """
    try:
        Address.parse(endpoint)
    except InvalidRequest as error:
        raise ConfigError(f"SPIFFE_ENDPOINT_SOCKET={endpoint!r} cannot be used", detail=str(error)) from error

    @asynccontextmanager
    async def connect() -> AsyncIterator[WorkloadApi]:
        async with dial(endpoint) as channel:
            yield WorkloadApi(channel)

    async with follow(connect, clock=clock) as found:
        yield found
