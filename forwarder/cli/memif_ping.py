"""Pings TARGET through a memif virtual wire.

An application that has no kernel interface: it connects to the memif socket that `vwire client
memif://...` printed, shares memory with whoever is there, and sends echo requests from its own
address. With --listen it is the other side: it makes the socket and only answers.

The exit status is 0 if every echo request was answered.
"""

import asyncio
import itertools

import rich_click as click

from forwarder import config
from forwarder.cli import program
from forwarder.cli.namespace import open_namespace
from forwarder.dataplane import MemifPortSpec, Mode, Role
from forwarder.errors import ConfigError, ForwarderError
from forwarder.mesh.endpoint import forever
from forwarder.mesh.memif_app import Pinger, memif_host, socket_of
from forwarder.mesh.responder import Host, mac_of
from forwarder.observability import log as logs

LARGEST_DATA = 8900
"""Bytes of data in an echo request: fits the MTU that vWires have by default."""


def _duration(_context: click.Context, _option: click.Parameter, text: str) -> float:
    try:
        return config.parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is {error}") from error


@click.command(name="memif-ping", help=__doc__)
@click.argument("target", required=False)
@click.option("--socket", required=True, help="The memif socket: @name for an abstract one, else a path.")
@click.option("--source", required=True, help="Our own address on the wire.")
@click.option("--netns", default="", help="Namespace of an abstract socket: process id, path or name; empty: our own.")
@click.option("--payload", type=click.Choice(["ETHERNET", "IP"]), default="ETHERNET", help="What the wire carries.")
@click.option("--count", type=click.IntRange(0), default=0, help="How many to send; 0: until Ctrl-C.")
@click.option("--interval", default="1s", callback=_duration, help="Pause between two.", show_default=True)
@click.option("--timeout", default="1s", callback=_duration, help="Longest wait for an answer.", show_default=True)
@click.option("--wait", default="10s", callback=_duration, help="Longest wait for the wire.", show_default=True)
@click.option("--size", type=click.IntRange(0, LARGEST_DATA), default=56, help="Bytes of data.", show_default=True)
@click.option("--secret", default="", help="The memif secret.")
@click.option("--quiet", is_flag=True, help="Only the summary.")
@click.option("--listen", is_flag=True, help="Make the socket and answer, instead of connecting to it.")
@click.option("--log-level", default="WARNING", help="As for every program.", show_default=True)
def command(
    target: str | None,
    *,
    socket: str,
    source: str,
    netns: str,
    payload: str,
    count: int,
    interval: float,
    timeout: float,
    wait: float,
    size: int,
    secret: str,
    quiet: bool,
    listen: bool,
    log_level: str,
) -> None:
    """Runs `vwire memif-ping`."""
    with program.errors_told("memif-ping"):
        logs.set_up(config.load(config.Settings, {"log_level": log_level}).log_level)
        if target is None and not listen:
            raise ConfigError("there is nothing to ping", hint="give an address, or --listen to answer only")
        try:
            host = Host.of(mac_of(f"{socket} {source} {listen}"), [source])
        except ValueError as error:
            raise ConfigError(f"--source={source!r} cannot be used", detail=str(error)) from error

        async def run() -> None:
            with open_namespace(netns) as namespace:
                spec = MemifPortSpec(
                    role=Role.SERVER if listen else Role.CLIENT,
                    address=socket_of(socket),
                    netns=namespace.fileno() if netns else None,
                    mode=Mode[payload],
                    secret=secret.encode(),
                    name="vwire memif-ping",
                )
                async with memif_host(spec, host) as application:
                    if target is None:
                        await forever()
                        return
                    pinger = Pinger(application, source=source, target=target)
                    try:
                        async with asyncio.timeout(wait):
                            await application.port.wait_connected()
                            await pinger.resolve()
                    except TimeoutError as error:
                        connected = application.port.connected
                        raise ForwarderError(
                            f"memif socket {socket}" if not connected else f"{target} on memif socket {socket}",
                            detail=f"no {'answer' if connected else 'connection'} within {wait:g} s",
                        ) from error
                    await series(
                        pinger, target, count=count, interval=interval, timeout_s=timeout, size=size, quiet=quiet
                    )

        program.run("memif-ping", run())


async def series(
    pinger: Pinger, target: str, *, count: int, interval: float, timeout_s: float, size: int, quiet: bool
) -> None:
    """Sends the echo requests one after another and prints what comes of them.

    Raises ForwarderError in the end if any was not answered.
    """
    try:
        for sequence in range(1, count + 1) if count else itertools.count(1):
            round_trip = await pinger.ping(sequence, size=size, timeout_s=timeout_s)
            if not quiet:
                what = "no answer" if round_trip is None else f"time={1000 * round_trip:.3f} ms"
                click.echo(f"{size} bytes to {target}: seq={sequence} {what}")
            if sequence != count:
                await asyncio.sleep(interval)
    finally:
        click.echo(str(pinger.report))
    if pinger.report.received < pinger.report.sent:
        raise ForwarderError(f"{pinger.report.sent - pinger.report.received} echo requests were not answered")
