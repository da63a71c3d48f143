"""Joins clients and endpoints by virtual wires.

Serves the NSM API on a unix or tcp socket, and registers with the manager at `--connect-to`, which
then sends it Requests. It asks the manager who serves a Request's network service, and calls one of
those; when that has agreed, both sides' interfaces are made and the frames between them carried,
until the client closes, or stops refreshing.

Without a manager, `--next-hop` says where Requests go.

Making interfaces in other network namespaces needs root, or CAP_SYS_ADMIN, CAP_NET_ADMIN and
CAP_NET_RAW, and the host's process ids to find namespaces by.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import rich_click as click

from forwarder import config
from forwarder.api import constants
from forwarder.api.registry_pb2 import NetworkServiceEndpoint, NetworkServiceLabels
from forwarder.cli import profile, program
from forwarder.cli.file_limit import raise_file_limit
from forwarder.cli.identified import identified, need_identity, policies_of, tokens_of
from forwarder.cli.options import insecure_flag, settings_flags
from forwarder.cli.privilege import need_privilege
from forwarder.clock import SystemClock
from forwarder.dataplane import Dataplane
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.mechanisms import Datapath, Mechanisms
from forwarder.mechanisms.kernel import KernelMechanism
from forwarder.mechanisms.kernel_redirect import RedirectedVeths
from forwarder.mechanisms.kernel_veth import DirectVeth
from forwarder.mechanisms.memif import MemifMechanism
from forwarder.mechanisms.memif_direct import DirectMemif
from forwarder.mechanisms.owner import Owner
from forwarder.mechanisms.reconciler import Reconciler
from forwarder.mesh.endpoint import forever
from forwarder.mesh.registration import Registration
from forwarder.rpc import Address, Channels, serve
from forwarder.security import NETWORK_SERVICE_SERVER, Policies, TokenMetadata
from forwarder.service import ConfiguredNextHops, Forwarder
from forwarder.service.access import Access
from forwarder.service.datapaths import Wanted
from forwarder.service.discovered import DiscoveredNextHops
from forwarder.tuning import Profile

BUILT_IN = Profile()

REGISTER_WAIT_S = 5.0
"""How long the start waits to be registered; then the attempts go on beside the work."""

_log = logging.getLogger("vwire")


@click.command(name="forwarder", help=__doc__)
@settings_flags(config.ForwarderSettings)
@insecure_flag
def command(*, insecure: bool, **flags: str | None) -> None:
    """Runs `vwire forwarder`."""
    with program.errors_told("forwarder"):
        settings = config.load(config.ForwarderSettings, flags)
        program.start("forwarder", settings)
        configured = next_hops_of(settings.next_hop)
        manager_of(settings)
        knobs = profile.in_force(settings)
        policies = Policies.load(settings.registry_client_policies)
        need_identity("forwarder", settings.spiffe_endpoint_socket, insecure=insecure)
        need_privilege("forwarder")
        raise_file_limit()
        program.run("forwarder", run(settings, configured, knobs, policies, insecure=insecure))


def next_hops_of(texts: Sequence[str]) -> ConfiguredNextHops:
    """Reads `URL` and `SERVICE=URL`.

    Raises ConfigError for a URL that cannot be dialled, and for two where one can be.
    """
    default = ""
    by_service: dict[str, str] = {}
    for text in texts:
        service, equals, url = text.rpartition("=")
        try:
            Address.parse(url)
        except InvalidRequest as error:
            raise ConfigError(f"next hop {text!r}", detail=str(error), hint="URL or SERVICE=URL") from error
        if (equals and (not service or service in by_service)) or (not equals and default):
            raise ConfigError(f"next hop {text!r}", detail="there is one already" if service else "names no service")
        if equals:
            by_service[service] = url
        else:
            default = url
    return ConfiguredNextHops(default=default, by_service=by_service)


def manager_of(settings: config.ForwarderSettings) -> str:
    """Returns the manager's URL, empty if next hops are configured.

    Raises ConfigError for a URL that cannot be dialled.
    """
    if settings.next_hop:
        return ""
    try:
        Address.parse(settings.connect_to)
    except InvalidRequest as error:
        raise ConfigError(f"connect to {settings.connect_to!r}", detail=str(error)) from error
    return settings.connect_to


def endpoint_of(settings: config.ForwarderSettings, url: str) -> NetworkServiceEndpoint:
    """Returns what a forwarder that listens at `url` registers as."""
    return NetworkServiceEndpoint(
        name=settings.name,
        network_service_names=[settings.nsname],
        network_service_labels={settings.nsname: NetworkServiceLabels(labels=settings.labels)},
        url=url,
    )


def dataplane_of(settings: config.WorkerSettings, knobs: Profile) -> Dataplane:
    """Makes the data plane that settings and profile ask for, and logs the knobs in force."""
    told = " ".join(f"{name}={text}" for name, text in profile.texts(knobs).items())
    _log.info("profile %s: %s", settings.profile or "(none)", told)
    return Dataplane(
        workers=knobs.workers,
        cpus=knobs.worker_cpus,
        poll_window_us=round(1e6 * knobs.poll_window_s),
        stall_limit_ms=round(1e3 * knobs.stall_limit_s),
        rebalance_interval_s=settings.rebalance_interval,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What vWires are made by."""

    kernel: KernelMechanism
    mechanisms: Mechanisms
    direct: Sequence[Datapath]
    """The datapaths that do without our workers, best first."""


@contextmanager
def means(dataplane: Dataplane, knobs: Profile = BUILT_IN, owner: str = "") -> Iterator[Means]:
    """Makes every mechanism and every datapath there is; `owner` marks the links that they make."""
    memif = MemifMechanism(dataplane, log2_ring_size=knobs.log2_ring_slots, buffer_bytes=knobs.memif_buffer_bytes)
    with (
        Owner(owner) as marks,
        KernelMechanism(dataplane, marks) as kernel,
        DirectVeth(kernel) as veth,
        RedirectedVeths(kernel) as redirect,
    ):
        marks.hold()
        yield Means(
            kernel=kernel,
            mechanisms={constants.KERNEL: kernel, constants.MEMIF: memif},
            direct=[veth, redirect, DirectMemif()],
        )


async def run(
    settings: config.ForwarderSettings,
    configured: ConfiguredNextHops,
    knobs: Profile,
    policies: Policies,
    *,
    insecure: bool,
) -> None:
    """Serves until cancelled. `policies` judge what the manager answers to our registration."""
    unentered = dataplane_of(settings, knobs)
    phases = program.Phases()
    clock = SystemClock()
    manager = manager_of(settings)
    async with AsyncExitStack() as stack:
        with phases(f"start {knobs.workers} workers"):
            dataplane = await stack.enter_async_context(unentered)
        with phases("open the mechanisms"):
            owner = settings.owner or f"{settings.name} at {settings.listen_on}"
            made = stack.enter_context(means(dataplane, knobs, owner))
            reconciler = Reconciler(made.kernel.tools, grace_s=settings.max_token_lifetime)
            await stack.enter_async_context(reconciler.running())
        with phases("get an identity" if not insecure else "do without an identity"):
            who = await stack.enter_async_context(identified(settings.spiffe_endpoint_socket, insecure=insecure))
            tokens = tokens_of(who, settings.name, clock, settings.max_token_lifetime)
        with phases("make the forwarder"):
            channels = await stack.enter_async_context(
                Channels(credentials=TokenMetadata(tokens), timeout_s=settings.dial_timeout, identity=who)
            )
            forwarder = await stack.enter_async_context(
                Forwarder(
                    name=settings.name,
                    mechanisms=made.mechanisms,
                    vwires=dataplane,
                    next_hops=DiscoveredNextHops(channels, manager, clock) if manager else configured,
                    tokens=tokens,
                    access=Access(policies_of(who, Policies.load(NETWORK_SERVICE_SERVER))),
                    channels=channels,
                    mechanism_priority=settings.mechanism_priority,
                    default_payload=settings.default_payload,
                    direct=made.direct,
                    datapath=Wanted(settings.datapath),
                    keep=made.kernel.keep if settings.keep_vwires else None,
                )
            )
        with phases(f"listen on {settings.listen_on}"):
            server = await stack.enter_async_context(serve(forwarder.services(), [settings.listen_on], identity=who))
        if manager:
            with phases(f"register with {manager}"):
                endpoint = endpoint_of(settings, *server.urls)
                registration = await stack.enter_async_context(
                    Registration(channels, manager, endpoint, clock, policies=policies_of(who, policies))
                )
                await registration.settled(REGISTER_WAIT_S)
        phases.ready("serving")
        await forever()
