"""Puts virtual wires into a network namespace, keeps them alive, and closes them at the end.

URL is `mechanism://service[@domain][/interface][?label=value&...]`:

- `kernel://web/nsm-1?app=blue` asks for the service `web` and makes an interface `nsm-1`
- `memif://web` asks for a memif socket, to which an application connects as memif client

What each vWire got is printed, one line each. The program runs until SIGTERM or Ctrl-C, then
closes its vWires, so that nothing of them is left.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack

import rich_click as click

from forwarder import config
from forwarder.api import constants
from forwarder.api.nsurl import NetworkServiceURL
from forwarder.cli import program
from forwarder.cli.identified import identified, need_identity, policies_of, tokens_of
from forwarder.cli.namespace import open_namespace
from forwarder.cli.options import insecure_flag, settings_flags
from forwarder.clock import SystemClock
from forwarder.errors import ConfigError
from forwarder.mesh.client import Client, describe
from forwarder.mesh.endpoint import forever
from forwarder.security import NETWORK_SERVICE_CLIENT, Policies


@click.command(name="client", help=__doc__)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@settings_flags(config.ClientSettings, without=("network_services",))
@click.option("--once", is_flag=True, help="Close the vWires as soon as they are made: tells whether that works.")
@insecure_flag
def command(urls: Sequence[str], *, once: bool, insecure: bool, **flags: str | None) -> None:
    """Runs `vwire client`."""
    with program.errors_told("client"):
        settings = config.load(config.ClientSettings, {**flags, "network_services": tuple(urls) or None})
        program.start("client", settings)
        if not settings.network_services:
            raise ConfigError(
                "there is nothing to connect to", hint="give URLs, such as kernel://web/nsm-1, or NSM_NETWORK_SERVICES"
            )
        wanted = [NetworkServiceURL.parse(url) for url in settings.network_services]
        need_identity("client", settings.spiffe_endpoint_socket, insecure=insecure)
        program.run("client", run(settings, wanted, once=once, insecure=insecure))


async def run(
    settings: config.ClientSettings, urls: Sequence[NetworkServiceURL], *, once: bool, insecure: bool
) -> None:
    """Makes every vWire, then waits to be cancelled."""
    phases = program.Phases()
    async with AsyncExitStack() as stack:
        with phases(f"open network namespace {settings.netns or '(our own)'}"):
            netns = stack.enter_context(open_namespace(settings.netns))
        with phases("get an identity" if not insecure else "do without an identity"):
            who = await stack.enter_async_context(identified(settings.spiffe_endpoint_socket, insecure=insecure))
        client = Client(
            name=settings.name,
            connect_to=settings.connect_to,
            netns=netns,
            labels=labels(settings),
            dial_timeout_s=settings.dial_timeout,
            request_timeout_s=settings.request_timeout,
            identity=who,
            tokens=tokens_of(who, settings.name, SystemClock(), settings.max_token_lifetime),
            policies=policies_of(who, Policies.load(NETWORK_SERVICE_CLIENT)),
        )
        for number, url in enumerate(urls):
            with phases(f"request {url}"):
                vwire = await stack.enter_async_context(client.vwire(url, number))
            click.echo(describe(vwire))
        phases.ready(f"{len(urls)} vWires are up")
        if not once:
            await forever()


def labels(settings: config.ClientSettings) -> dict[str, str]:
    """Returns the labels that say where this client runs."""
    given = {
        constants.NODE_NAME: settings.node_name,
        constants.POD_NAME: settings.pod_name,
        constants.CLUSTER_NAME: settings.cluster_name,
    }
    return {label: value for label, value in given.items() if value}
