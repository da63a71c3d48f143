"""A whole mesh in one process: pods, a forwarder, endpoints and clients, as a file describes them.

```
 namespace vwire-demo-node    this process: data plane, forwarder, endpoints, clients (gRPC on unix sockets)
 namespace vwire-demo-client  ── vWires ──  namespace vwire-demo-server
             programs in pods are children that die with this process
```

The process itself moves into a namespace of the mesh before anything else exists in it, so that
both ends of every link are inside the mesh, and are gone when its namespaces are.
"""

import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

import psutil

from forwarder import config
from forwarder.api.connection_pb2 import Connection
from forwarder.api.x509 import Identity
from forwarder.cli import mesh_file, pods
from forwarder.cli.forwarder import dataplane_of, means
from forwarder.cli.mesh_file import Command, MeshPlan
from forwarder.cli.pods import Outcome, Pod
from forwarder.cli.program import Phases
from forwarder.cli.remains import Remains
from forwarder.dataplane.statistics import FlowStatistics
from forwarder.errors import ConfigError, EndpointNotFound
from forwarder.mesh.client import Client, ClientVwire
from forwarder.mesh.endpoint import Endpoint, Extension, assigns, kernel_end
from forwarder.mesh.identity import identity, serve_workloads
from forwarder.mesh.ipam import PointToPointIpam
from forwarder.mesh.memif_app import memif_end
from forwarder.netns import named
from forwarder.observability.table import Flow, Look, Row
from forwarder.rpc import Channels, monitor_connection, network_service, serve
from forwarder.security import (
    NETWORK_SERVICE_CLIENT,
    NETWORK_SERVICE_SERVER,
    Authority,
    Policies,
    SvidTokens,
    TokenMetadata,
)
from forwarder.service import Forwarder, Target
from forwarder.service.access import Access
from forwarder.service.datapaths import Wanted
from forwarder.tuning import Profile

TRUST_DOMAIN = "vwire"
TOKEN_LIFETIME_S = 600.0
CHECK_TIMEOUT_S = 20.0
"""How long one check may take."""

_log = logging.getLogger(__name__)


class PlannedNextHops:
    """Finds endpoints where the file says they are."""

    def __init__(self, plan: MeshPlan, urls: Mapping[str, str]) -> None:
        """`urls` says where each endpoint listens, by name."""
        self._targets = {
            service: Target(url=urls[endpoint.name], endpoint_name=endpoint.name, payload=endpoint.payload)
            for endpoint in plan.endpoints
            for service in endpoint.services
        }

    @asynccontextmanager
    async def find(self, connection: Connection) -> AsyncIterator[Iterable[Target]]:
        """Gives the endpoint of the connection's network service."""
        target = self._targets.get(connection.network_service)
        if target is None:
            raise EndpointNotFound(f"no endpoint of this mesh serves {connection.network_service!r}")
        yield [target]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What came of one check."""

    check: Command
    line: str
    """The command line as it was run; empty if it was left out."""
    outcome: Outcome | None
    """None when the program is not installed and the check is optional."""
    seconds: float

    @property
    def failed(self) -> bool:
        """Says whether the mesh did not do what the check wanted."""
        return self.outcome is not None and self.outcome.status != 0


class LocalMesh:
    """A mesh that is up."""

    def __init__(self, plan: MeshPlan, places: Mapping[str, Pod], forwarder: Forwarder) -> None:
        self.plan = plan
        self._pods = places
        self._forwarder = forwarder
        self.vwires: dict[str, tuple[ClientVwire, Pod]] = {}
        """By name: the vWire and the pod of its client."""

    def look(self) -> Look:
        """Returns the counters of every vWire."""
        rows = []
        for connection in self._forwarder.statistics().connections:
            counted = connection.vwire
            rows.append(
                Row(
                    name=connection.origin_id,
                    client=connection.client_interface,
                    endpoint=connection.endpoint_interface,
                    payload=connection.payload,
                    datapath=connection.datapath,
                    state=connection.state,
                    forth=_flow(counted.a_to_b) if counted is not None else None,
                    back=_flow(counted.b_to_a) if counted is not None else None,
                )
            )
        return Look(at=time.monotonic(), rows=sorted(rows, key=lambda row: row.name))

    async def check(self, check: Command) -> CheckResult:
        """Runs one check to its end."""
        began = time.monotonic()
        line, pod = self._filled(check)
        if not pods.installed(line):
            missing = Outcome(status=pods.NOT_FOUND, output=f"{line[0]} is not installed")
            outcome = None if check.optional else missing
            return CheckResult(check=check, line="", outcome=outcome, seconds=0.0)
        outcome = await pod.run(line, timeout_s=CHECK_TIMEOUT_S)
        return CheckResult(check=check, line=shlex.join(line), outcome=outcome, seconds=time.monotonic() - began)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Runs the plan's traffic for as long as the context lasts."""
        async with AsyncExitStack() as stack:
            for command in self.plan.traffic:
                line, pod = self._filled(command)
                await _start(stack, pod, line)
            yield

    def _filled(self, command: Command) -> tuple[list[str], Pod]:
        vwire, pod = self.vwires[command.vwire]
        return mesh_file.filled(command.run, placeholders(vwire, pod)), pod


def placeholders(vwire: ClientVwire, pod: Pod) -> dict[str, str]:
    """Returns what the placeholders of a vWire's commands stand for."""
    values = {"socket": vwire.socket, "netns": pod.namespace}
    for key, texts in (("src", vwire.addresses), ("dst", vwire.peers)):
        addresses = [ip_interface(text).ip for text in texts]
        values[key] = str(addresses[0]) if addresses else ""
        values[f"{key}6"] = next((str(address) for address in addresses if address.version == 6), "")
    return values


def _flow(counted: FlowStatistics) -> Flow:
    return Flow(
        frames=counted.out_frames, bytes=counted.out_bytes, drops=counted.drops, residence_ns=counted.residence_ns
    )


async def _start(stack: AsyncExitStack, pod: Pod, line: Sequence[str]) -> None:
    """Starts a program that runs as long as `stack`; says so when it is not installed."""
    if not pods.installed(line):
        _log.warning("%s is not installed: not started in pod %s", line[0], pod.name)
        return
    await stack.enter_async_context(pod.running(line))


def namespace_of(mesh: str, pod: str) -> str:
    """Returns the name of a pod's namespace."""
    return f"vwire-{mesh}-{pod}"


def record(plan: MeshPlan, run_dir: str) -> Remains:
    """Returns what has to be written down before the mesh is made."""
    names = [mesh_file.NODE, *(pod.name for pod in plan.pods)]
    return Remains(
        name=plan.name,
        directory=str(Path(run_dir) / plan.name),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        namespaces=tuple(namespace_of(plan.name, name) for name in names),
    )


def check_free(plan: MeshPlan, run_dir: str) -> None:
    """Takes away what a killed mesh of this name left.

    Raises ConfigError when one is up, or when a namespace that we would make is there already:
    it is somebody else's, and must not be taken away with the mesh.
    """
    earlier = Remains.load(run_dir, plan.name)
    if earlier.process() is not None:
        raise ConfigError(
            f"a mesh called {plan.name!r} is up already (process {earlier.pid})",
            hint=f"end it with `vwire down {plan.name}`, or choose another --name",
        )
    if earlier.pid:
        for line in earlier.remove():
            _log.warning("an earlier mesh %s was killed: %s", plan.name, line)
    taken = sorted(set(record(plan, run_dir).namespaces).intersection(named()))
    if taken:
        raise ConfigError(
            f"mesh {plan.name!r} needs the network namespace {taken[0]}",
            detail="it is there already, and not from a mesh that `vwire up` recorded",
            hint=f"choose another --name, or remove it with `ip netns delete {taken[0]}`",
        )


@asynccontextmanager
async def identities(names: Sequence[str], directory: str) -> AsyncIterator[Mapping[str, Identity]]:
    """Issues an identity to each program, `spiffe://vwire/NAME`, over a Workload API as SPIRE's is.

    Each has a socket of its own in `directory`, which only we can enter.
    """
    authority = Authority(TRUST_DOMAIN)
    sockets = {name: f"unix://{directory}/{name}.sock" for name in names}
    async with AsyncExitStack() as stack:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        stack.callback(os.rmdir, directory)
        workloads = {f"spiffe://{TRUST_DOMAIN}/{name}": url for name, url in sockets.items()}
        await stack.enter_async_context(serve_workloads(authority, workloads))
        yield {name: await stack.enter_async_context(identity(url)) for name, url in sockets.items()}


@asynccontextmanager
async def local_mesh(
    plan: MeshPlan, *, directory: str, settings: config.UpSettings, knobs: Profile, phases: Phases
) -> AsyncIterator[LocalMesh]:
    """Makes a mesh, connects its clients, and takes everything away on leaving.

    `directory` exists and is ours alone: the sockets are made there. The process is in the
    mesh's node namespace already.
    """
    async with AsyncExitStack() as stack:
        with phases(f"make {len(plan.pods)} pods: {', '.join(pod.name for pod in plan.pods)}"):
            places = {
                pod.name: await stack.enter_async_context(
                    pods.pod(plan.name, pod.name, namespace_of(plan.name, pod.name), directory)
                )
                for pod in plan.pods
            }
        names = ["forwarder", *(each.name for each in plan.endpoints), *(each.name for each in plan.clients)]
        with phases(f"issue identities to {len(set(names))} programs"):
            who_is_who = await stack.enter_async_context(identities(names, f"{directory}/identity"))
            checked_by_servers = Policies.load(NETWORK_SERVICE_SERVER)
            checked_by_clients = Policies.load(NETWORK_SERVICE_CLIENT)
        with phases(f"start the data plane and the forwarder, {knobs.workers} workers"):
            dataplane = await stack.enter_async_context(dataplane_of(settings, knobs))
            made = stack.enter_context(means(dataplane, knobs, owner=f"mesh {plan.name}"))
            who = who_is_who["forwarder"]
            tokens = SvidTokens(who, lifetime_s=TOKEN_LIFETIME_S)
            channels = await stack.enter_async_context(Channels(credentials=TokenMetadata(tokens), identity=who))
            urls = {endpoint.name: f"unix://{directory}/{endpoint.name}.sock" for endpoint in plan.endpoints}
            forwarder = await stack.enter_async_context(
                Forwarder(
                    name="forwarder",
                    mechanisms=made.mechanisms,
                    vwires=dataplane,
                    next_hops=PlannedNextHops(plan, urls),
                    direct=made.direct,
                    tokens=tokens,
                    access=Access(checked_by_servers),
                    channels=channels,
                    datapath=Wanted(settings.datapath),
                )
            )
            first_hop = f"unix://{directory}/forwarder.sock"
            await stack.enter_async_context(serve(forwarder.services(), [first_hop], identity=who))
        mesh = LocalMesh(plan, places, forwarder)
        with phases(f"start {len(plan.endpoints)} endpoints: {', '.join(each.name for each in plan.endpoints)}"):
            for endpoint in plan.endpoints:
                who = who_is_who[endpoint.name]
                await _serve_endpoint(
                    stack, endpoint, places[endpoint.pod], urls[endpoint.name], who, checked_by_servers
                )
        with phases("start the programs of the pods"):
            for pod in plan.pods:
                for line in pod.run:
                    await _start(stack, places[pod.name], line)
        for planned in plan.clients:
            pod_of_client = places[planned.pod]
            who = who_is_who[planned.name]
            client = Client(
                name=planned.name,
                connect_to=first_hop,
                netns=pod_of_client.netns,
                identity=who,
                tokens=SvidTokens(who, lifetime_s=TOKEN_LIFETIME_S),
                policies=checked_by_clients,
            )
            for number, url in enumerate(planned.connect):
                with phases(f"request {url} for {planned.name}"):
                    vwire = await stack.enter_async_context(client.vwire(url, number))
                mesh.vwires[vwire.name] = (vwire, pod_of_client)
        yield mesh


async def _serve_endpoint(
    stack: AsyncExitStack,
    planned: mesh_file.EndpointPlan,
    pod: Pod,
    url: str,
    who: Identity,
    policies: Policies,
) -> None:
    ends: dict[str, Extension] = {"kernel": kernel_end(pod.netns), "memif": memif_end(pod.netns)}
    endpoint = await stack.enter_async_context(
        Endpoint(
            name=planned.name,
            services=planned.services,
            payload=planned.payload,
            mechanisms={planned.mechanism.upper(): ends[planned.mechanism]},
            extensions=[assigns(PointToPointIpam(planned.cidr_prefix))],
            tokens=SvidTokens(who, lifetime_s=TOKEN_LIFETIME_S),
            policies=policies,
        )
    )
    await stack.enter_async_context(
        serve([network_service(endpoint), monitor_connection(endpoint)], [url], identity=who)
    )


async def run_checks(mesh: LocalMesh) -> AsyncIterator[CheckResult]:
    """Runs the plan's checks one after another."""
    for check in mesh.plan.checks:
        yield await mesh.check(check)
