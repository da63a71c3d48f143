"""Serves a network service: hands out addresses, and answers pings.

Every client gets a pair of addresses of its own. With mechanism KERNEL each gets an interface in
the endpoint's namespace, where any server can listen. With MEMIF the program itself answers ARP,
neighbour discovery and echo requests. The forwarder joins either to what the client asked for.
The program runs until SIGTERM or Ctrl-C, then ends its connections.

With `--connect-to` it registers with that manager, its network services first, stays registered
whatever happens to the manager, and unregisters at its end. Services stay: others may serve them.
"""

from contextlib import AsyncExitStack

import rich_click as click

from forwarder import config
from forwarder.api import constants
from forwarder.api.connectioncontext_pb2 import DNSConfig
from forwarder.api.registry_pb2 import NetworkService, NetworkServiceEndpoint, NetworkServiceLabels
from forwarder.api.x509 import Identity
from forwarder.cli import program
from forwarder.cli.identified import identified, need_identity, policies_of, tokens_of
from forwarder.cli.namespace import open_namespace
from forwarder.cli.options import insecure_flag, settings_flags
from forwarder.clock import SystemClock
from forwarder.errors import ConfigError, InvalidRequest
from forwarder.mesh.endpoint import Endpoint, assigns, forever, kernel_end, tells_dns
from forwarder.mesh.ipam import PointToPointIpam, Policy
from forwarder.mesh.memif_app import memif_end
from forwarder.mesh.registration import Registration
from forwarder.netns import Netns
from forwarder.rpc import Address, Channels, monitor_connection, network_service, serve
from forwarder.security import NETWORK_SERVICE_SERVER, Policies, TokenMetadata

REGISTER_WAIT_S = 5.0
"""How long the start waits to be registered; then the attempts go on beside the work."""


@click.command(name="endpoint", help=__doc__)
@settings_flags(config.EndpointSettings)
@insecure_flag
def command(*, insecure: bool, **flags: str | None) -> None:
    """Runs `vwire endpoint`."""
    with program.errors_told("endpoint"):
        settings = config.load(config.EndpointSettings, flags)
        program.start("endpoint", settings)
        ipam = PointToPointIpam(settings.cidr_prefix, Policy(settings.ipam_policy))
        check_manager(settings.connect_to)
        policies = Policies.load(settings.registry_client_policies)
        need_identity("endpoint", settings.spiffe_endpoint_socket, insecure=insecure)
        program.run("endpoint", run(settings, ipam, policies, insecure=insecure))


def check_manager(url: str) -> None:
    """Raises ConfigError for a URL that cannot be dialled; none is fine."""
    try:
        if url:
            Address.parse(url)
    except InvalidRequest as error:
        raise ConfigError(f"connect to {url!r}", detail=str(error)) from error


def registered_as(settings: config.EndpointSettings, url: str) -> NetworkServiceEndpoint:
    """Returns what an endpoint that listens at `url` registers as."""
    names = settings.service_names
    return NetworkServiceEndpoint(
        name=settings.name,
        network_service_names=names,
        network_service_labels={each: NetworkServiceLabels(labels=settings.labels) for each in names},
        url=url,
    )


def services_of(settings: config.EndpointSettings) -> list[NetworkService]:
    """Returns the network services to register; none if they are there already."""
    if not settings.register_service:
        return []
    return [NetworkService(name=each, payload=settings.payload) for each in settings.service_names]


def icmp_responder(
    settings: config.EndpointSettings, ipam: PointToPointIpam, netns: Netns, who: Identity | None
) -> Endpoint:
    """Makes the endpoint that the settings describe, in `netns`."""
    ends = {constants.KERNEL: kernel_end(netns), constants.MEMIF: memif_end(netns)}
    configs = [DNSConfig(**each) for each in settings.dns_configs]
    return Endpoint(
        name=settings.name,
        services=settings.service_names,
        payload=settings.payload,
        mechanisms={each: ends[each] for each in settings.mechanisms},
        extensions=[assigns(ipam), tells_dns(configs)],
        tokens=tokens_of(who, settings.name, SystemClock(), settings.max_token_lifetime),
        policies=policies_of(who, Policies.load(NETWORK_SERVICE_SERVER)),
    )


async def run(settings: config.EndpointSettings, ipam: PointToPointIpam, policies: Policies, *, insecure: bool) -> None:
    """Serves until cancelled. `policies` judge what the manager answers to our registration."""
    phases = program.Phases()
    async with AsyncExitStack() as stack:
        with phases(f"open network namespace {settings.netns or '(our own)'}"):
            netns = stack.enter_context(open_namespace(settings.netns))
        with phases("get an identity" if not insecure else "do without an identity"):
            who = await stack.enter_async_context(identified(settings.spiffe_endpoint_socket, insecure=insecure))
        with phases(f"serve {', '.join(settings.service_names)} on {settings.listen_on}"):
            endpoint = await stack.enter_async_context(icmp_responder(settings, ipam, netns, who))
            services = [network_service(endpoint), monitor_connection(endpoint)]
            server = await stack.enter_async_context(serve(services, [settings.listen_on], identity=who))
        if manager := settings.connect_to:
            with phases(f"register with {manager}"):
                clock = SystemClock()
                tokens = TokenMetadata(tokens_of(who, settings.name, clock, settings.max_token_lifetime))
                channels = await stack.enter_async_context(
                    Channels(credentials=tokens, timeout_s=settings.dial_timeout, identity=who)
                )
                registration = Registration(
                    channels,
                    manager,
                    registered_as(settings, *server.urls),
                    clock,
                    policies=policies_of(who, policies),
                    services=services_of(settings),
                )
                await stack.enter_async_context(registration)
                await registration.settled(REGISTER_WAIT_S)
        phases.ready("serving")
        await forever()
