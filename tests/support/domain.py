"""A whole domain in one process: pods as namespaces, an endpoint, a forwarder and clients over unix sockets."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forwarder.api.connection_pb2 import Connection, Mechanism
from forwarder.api.networkservice_pb2 import NetworkServiceRequest
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.cli.forwarder import means
from forwarder.clock import Clock, SystemClock
from forwarder.dataplane import Dataplane, MemifPortSpec, Mode, Role
from forwarder.mesh.client import Client, ClientVwire
from forwarder.mesh.endpoint import Endpoint, Extension, assigns, kernel_end
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.mesh.memif_app import MemifHost, Pinger, memif_end, memif_host
from forwarder.mesh.responder import Host, mac_of
from forwarder.netns import Netns, remove_name
from forwarder.rpc import NextHop, dial, monitor_connection, network_service, serve
from forwarder.service import ConfiguredNextHops, Forwarder
from forwarder.service.datapaths import Wanted
from tests.support.connections import connection
from tests.support.netns import Netns as Shell

PREFIXES = [["172.16.0.0/16"], ["fd00::/64"]]
SERVICE = "web"


@dataclass(slots=True, kw_only=True)
class Domain:
    """What was started."""

    forwarder: Forwarder
    endpoint: Endpoint
    url: str
    """The forwarder's."""
    endpoint_netns: Netns
    payload: str
    clock: Clock = field(default_factory=SystemClock)

    @property
    def endpoint_pod(self) -> Shell:
        """Runs commands where the endpoint's interfaces are."""
        return Shell(self.endpoint_netns.fileno())

    @asynccontextmanager
    async def vwire(
        self, netns: Netns, mechanism: str = "kernel", *, name: str = "nsc", number: int = 0, interface: str = ""
    ) -> AsyncIterator[ClientVwire]:
        """A client's vWire into `netns`, kept fresh and closed as the real client does."""
        url = f"{mechanism}://{SERVICE}" + (f"/{interface}" if interface else "")
        client = Client(name=name, connect_to=self.url, netns=netns)
        async with client.vwire(NetworkServiceURL.parse(url), number) as vwire:
            yield vwire

    @asynccontextmanager
    async def hop(self) -> AsyncIterator[NextHop]:
        """The forwarder's gRPC, for Requests that a well-behaved client does not send."""
        async with dial(self.url) as channel:
            yield NextHop(channel)

    def request(
        self, *preferences: Mechanism, client: str = "nsc", lifetime_s: float = 60, **fields: object
    ) -> NetworkServiceRequest:
        """A first Request of a client."""
        expires = self.clock.now() + lifetime_s
        given = connection(f"{client}:{client}-0", expires=expires, **{"network_service": SERVICE, **fields})
        return NetworkServiceRequest(connection=given, mechanism_preferences=preferences)

    @asynccontextmanager
    async def application(self, vwire: ClientVwire, netns: Netns, family: int = 0) -> AsyncIterator[Pinger]:
        """A memif application on a client's vWire that pings its endpoint."""
        source, target = vwire.addresses[family], vwire.peers[family]
        spec = MemifPortSpec(role=Role.CLIENT, address=vwire.socket, netns=netns.fileno(), mode=Mode[self.payload])
        async with memif_host(spec, Host.of(mac_of("app"), [source])) as host:
            pinger = Pinger(host, source=source, target=target)
            async with asyncio.timeout(10):
                await _connected(host)
                await pinger.resolve()
            yield pinger


@contextmanager
def pod() -> Iterator[Netns]:
    """Makes a namespace with a name, by which the forwarder finds it: no process is in it."""
    name = f"vwire-test-{secrets.token_hex(4)}"
    with Netns.create_named(name) as made:
        try:
            yield made
        finally:
            remove_name(name)


async def _connected(host: MemifHost) -> None:
    await host.port.wait_connected()


@asynccontextmanager
async def domain(
    directory: Path,
    *,
    endpoint: str = "KERNEL",
    payload: str = "ETHERNET",
    datapath: str = "auto",
    clock: Clock | None = None,
    memif: Callable[[Netns], Extension] = memif_end,
    kernel: Extension | None = None,
    services: Sequence[str] = (SERVICE,),
    dataplane: Dataplane | None = None,
) -> AsyncIterator[Domain]:
    """Starts an endpoint that serves one mechanism, and a forwarder in front of it.

    `memif` is the endpoint's memif end; `kernel` is its kernel end, by default in a pod of its own.
    The forwarder's `dataplane` is one that nobody has entered; by default one with a single worker.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        netns = stack.enter_context(pod())
        ends = {"KERNEL": kernel_end, "MEMIF": memif}
        served = Endpoint(
            name="nse",
            services=services,
            mechanisms={endpoint: kernel or ends[endpoint](netns)},
            extensions=[assigns(PointToPointIpam(PREFIXES))],
            payload=payload,
            clock=clock,
        )
        await stack.enter_async_context(served)
        endpoint_url = f"unix://{directory}/nse.sock"
        await stack.enter_async_context(serve([network_service(served), monitor_connection(served)], [endpoint_url]))
        dataplane = await stack.enter_async_context(dataplane or Dataplane())
        made = stack.enter_context(means(dataplane))
        forwarder = Forwarder(
            name="fwd",
            mechanisms=made.mechanisms,
            vwires=dataplane,
            next_hops=ConfiguredNextHops(default=endpoint_url),
            clock=clock,
            default_payload=payload,
            direct=made.direct,
            datapath=Wanted(datapath),
        )
        await stack.enter_async_context(forwarder)
        url = f"unix://{directory}/fwd.sock"
        await stack.enter_async_context(serve(forwarder.services(), [url]))
        yield Domain(forwarder=forwarder, endpoint=served, url=url, endpoint_netns=netns, payload=payload, clock=clock)


async def ping(netns: Netns, address: str, *, count: int = 3, size: int = 56) -> int:
    """Pings from a namespace with the system's ping; returns how many answers came."""
    target = address.partition("/")[0]
    result = await asyncio.to_thread(
        Shell(netns.fileno()).run,
        "ping", "-n", "-q", "-c", str(count), "-i", "0.05", "-W", "5", "-s", str(size), target,
        check=False,
    )  # fmt: skip
    sent_and_received = next((line for line in result.stdout.splitlines() if "received" in line), "")
    return int(sent_and_received.split()[3]) if sent_and_received else 0


def links(netns: Netns) -> list[str]:
    """The names of a namespace's interfaces, without lo."""
    return sorted(name for name in Shell(netns.fileno()).links() if name != "lo")


def kernel(netns: Netns, name: str = "nsm-1") -> Mechanism:
    """A client's preference for an interface in `netns`."""
    found = os.stat(f"/proc/self/fd/{netns.fileno()}")
    url = f"inode://{found.st_dev}/{found.st_ino}"
    return Mechanism(cls="LOCAL", type="KERNEL", parameters={"name": name, "inodeURL": url})


def memif(netns: Netns) -> Mechanism:
    """A client's preference for a memif socket in `netns`."""
    found = os.stat(f"/proc/self/fd/{netns.fileno()}")
    return Mechanism(cls="LOCAL", type="MEMIF", parameters={"inodeURL": f"inode://{found.st_dev}/{found.st_ino}"})


def mine(answer: Connection) -> str:
    """The forwarder's own connection id in an answer."""
    return answer.path.path_segments[1].id


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Waits for what no event tells of; raises TimeoutError when it does not come about."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def pods_watched(mesh: Domain, pods: int = 2) -> None:
    """Waits until the forwarder knows who keeps the pods, the endpoint's among them."""
    watched = mesh.forwarder._namespaces._watched
    await until(lambda: len(watched) == pods and all(each.keeper is not None for each in watched.values()))
