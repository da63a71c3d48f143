"""Makes a local mesh on this machine: pods, a forwarder, endpoints and clients, from FILE.

Without FILE it makes an example: kernel and memif virtual wires, with ping, curl, iperf3 and a
memif application over them. Pods are network namespaces, so that `ip netns exec
vwire-demo-client bash` is a shell in one of them.

At a terminal, a live table of the vWires stays until Ctrl-C. Otherwise the mesh runs its checks,
prints the table, and ends; the exit status is 0 if every check passed. Either way nothing is left;
if the process is killed, `vwire down` takes away what it leaves.

It needs root. There is no TLS inside it: its sockets are in a folder that only root can enter.
"""

import asyncio
import ctypes
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import rich_click as click
from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from forwarder import config
from forwarder.cli import mesh_file, pods, profile, program
from forwarder.cli.local_mesh import (
    CheckResult,
    LocalMesh,
    check_free,
    local_mesh,
    namespace_of,
    record,
    run_checks,
)
from forwarder.cli.mesh_file import MeshPlan
from forwarder.cli.options import settings_flags
from forwarder.cli.privilege import need_privilege
from forwarder.connection.background import Background
from forwarder.errors import ConfigError, ForwarderError
from forwarder.mesh.client import describe
from forwarder.mesh.endpoint import forever
from forwarder.observability import log as logs
from forwarder.observability.table import Look, render
from forwarder.tuning import Profile

REFRESH_S = 0.5
"""How often the live table is drawn."""
PRINT_S = 5.0
"""How often the table is printed where it cannot be drawn in place."""
WIDTH = 120
"""Columns of the table where there is no terminal to ask."""
CLONE_NEWNET = 0x40000000

_log = logging.getLogger("vwire")


@click.command(name="up", help=__doc__)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--file", "file_option", type=click.Path(path_type=Path), help="The same as FILE.")
@click.option("--for", "seconds", type=float, default=None, help="End after so many seconds.")
@click.option(
    "--table/--no-table", "live", default=None, help="Draw a live table, or do not; by default at a terminal only."
)
@click.option("--check/--no-check", "checks", default=True, help="Run the checks of the file.", show_default=True)
@settings_flags(config.UpSettings)
def command(
    file: Path | None,
    *,
    file_option: Path | None,
    seconds: float | None,
    live: bool | None,
    checks: bool,
    **flags: str | None,
) -> None:
    """Runs `vwire up`."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    with program.errors_told("up"):
        settings = config.load(config.UpSettings, flags)
        path = file or file_option
        plan = mesh_file.load(path) if path is not None else mesh_file.example()
        if settings.name:
            if not mesh_file.NAME.fullmatch(settings.name):
                raise ConfigError(f"NSM_NAME={settings.name!r} cannot be used as the name of a mesh")
            plan = replace(plan, name=settings.name)
        knobs = profile.in_force(settings)
        need_privilege("up")
        attached = sys.stdin.isatty() and console.is_terminal
        draws = attached if live is None else live
        program.start("up", settings)
        if draws:
            handler = RichHandler(console=console, show_path=False, markup=False, rich_tracebacks=False)
            logs.set_up(settings.log_level, handler=handler)
        check_free(plan, settings.run_dir)
        remains = record(plan, settings.run_dir)
        with ExitStack() as stack:
            remains.write()
            stack.callback(remains.remove)
            enter_node(stack, plan)
            main = run(plan, settings, knobs, console, seconds=seconds, draws=draws, stays=attached, checks=checks)
            program.run("up", main)


def enter_node(stack: ExitStack, plan: MeshPlan) -> None:
    """Moves this process, which has one thread yet, into the mesh's own namespace."""
    name = namespace_of(plan.name, mesh_file.NODE)
    netns = stack.enter_context(pods.named_namespace(name))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns.fileno(), CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise ConfigError(f"network namespace {name} cannot be entered", detail=os.strerror(number))
    pods.set_loopback_up(name)


async def run(
    plan: MeshPlan,
    settings: config.UpSettings,
    knobs: Profile,
    console: Console,
    *,
    seconds: float | None,
    draws: bool,
    stays: bool,
    checks: bool,
) -> None:
    """Makes the mesh and shows it until it is told to end.

    Raises ForwarderError in the end if a check failed.
    """
    phases = program.Phases()
    failed: list[CheckResult] = []
    directory = str(Path(settings.run_dir) / plan.name)
    async with local_mesh(
        plan,
        directory=directory,
        settings=settings,
        knobs=knobs,
        phases=phases,
    ) as mesh:
        phases.ready(f"mesh {plan.name} is up")
        for vwire, _ in mesh.vwires.values():
            console.print(Text(describe(vwire)), soft_wrap=True)
        async with shown(mesh, console, draws=draws), AsyncExitStack() as stack:
            if checks:
                async for result in run_checks(mesh):
                    tell(console, result)
                    if result.failed:
                        failed.append(result)
            # Not before: a memif vWire has room for one application.
            if stays or seconds is not None:
                await stack.enter_async_context(mesh.traffic())
            if seconds is not None:
                await asyncio.sleep(seconds)
            elif stays:
                console.print(
                    Text(f"the mesh stays until Ctrl-C; `ip netns exec {example_pod(plan)} bash` is a shell"),
                    soft_wrap=True,
                )
                await forever()
    if failed:
        names = ", ".join(repr(result.check.name) for result in failed)
        raise ForwarderError(f"{len(failed)} of {len(plan.checks)} checks failed", detail=names)


def example_pod(plan: MeshPlan) -> str:
    """Returns the namespace of the first client."""
    return namespace_of(plan.name, plan.clients[0].pod)


def tell(console: Console, result: CheckResult) -> None:
    """Prints what came of a check: one line, and the output when it failed."""
    if result.outcome is None:
        console.print(
            Text(f"left out  {result.check.name}: {result.check.run[0]} is not installed", style="yellow"),
            soft_wrap=True,
        )
        return
    lines = result.outcome.output.splitlines()
    if result.failed:
        console.print(
            Text(f"FAILED    {result.check.name} (status {result.outcome.status})", style="red"), soft_wrap=True
        )
        console.print(Text(f"          {result.line}", style="dim"), soft_wrap=True)
        for line in lines[-10:]:
            console.print(Text(f"          {line}"), soft_wrap=True)
        return
    console.print(
        Text(f"passed    {result.check.name} ({result.seconds:.1f} s): {_gist(lines)}", style="green"), soft_wrap=True
    )


def _gist(lines: list[str]) -> str:
    """Returns the line of a program's output that says most."""
    for words in ("packet loss", "receiver"):
        for line in lines:
            if words in line:
                return " ".join(line.split())
    return lines[-1].strip() if lines else "no output"


@asynccontextmanager
async def shown(mesh: LocalMesh, console: Console, *, draws: bool) -> AsyncIterator[None]:
    """Shows the table of vWires: in place, or printed now and then and at the end."""
    first = mesh.look()
    background = Background()
    if draws:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            try:
                async with background.running(_draw(mesh, live, first), "table"):
                    yield
            finally:
                live.update(Group(render(mesh.look(), first, f"mesh {mesh.plan.name}, mean rates")), refresh=True)
        return
    try:
        async with background.running(_print(mesh, console, first), "table"):
            yield
    finally:
        console.print(render(mesh.look(), first, f"mesh {mesh.plan.name}, mean rates"))


async def _draw(mesh: LocalMesh, live: Live, before: Look) -> None:
    while True:
        await asyncio.sleep(REFRESH_S)
        now = mesh.look()
        live.update(render(now, before, f"mesh {mesh.plan.name}"), refresh=True)
        before = now


async def _print(mesh: LocalMesh, console: Console, before: Look) -> None:
    while True:
        await asyncio.sleep(PRINT_S)
        now = mesh.look()
        console.print(render(now, before, f"mesh {mesh.plan.name}"))
        before = now
