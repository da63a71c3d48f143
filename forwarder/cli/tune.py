"""Finds good values for the data plane's knobs on this host, and writes them into a profile.

It tries ring sizes with frames that go round between two data planes over memif, poll windows and
CPUs with TCP and pings between two network namespaces of its own, and looks how long the kernel
keeps a CPU from those who want it. That takes less than a minute, and all CPUs: a busy host gives
wrong answers, and is disturbed. Nothing is left but the file.

The forwarder loads it: `vwire forwarder --profile FILE`, or NSM_PROFILE.
"""

import datetime
import os
import platform
from pathlib import Path

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from forwarder.cli import program
from forwarder.cli.privilege import need_privilege
from forwarder.cli.profile import dump, texts
from forwarder.errors import ConfigError
from forwarder.tuning.sweep import Sweep, Trial, Tuned

DEFAULT = "vwire-profile.yaml"


@click.command(name="tune", help=__doc__)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(DEFAULT),
    help=f"File to write, replaced when it is there. [default: {DEFAULT}]",
)
@click.option("--rounds", type=click.IntRange(1, 20), default=5, help="Measurements of each value. [default: 5]")
def command(*, output: Path, rounds: int) -> None:
    """Runs `vwire tune`."""
    with program.errors_told("tune"):
        if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
            raise ConfigError(f"profile {output}", detail=f"{output.parent} is not a folder to write to")
        need_privilege("tune")
        program.run("tune", run(output, rounds))


async def run(output: Path, rounds: int) -> None:
    """Sweeps, shows, writes."""
    console = Console(highlight=False)
    sweep = Sweep(rounds=rounds)
    reasons: dict[str, str] = {}
    columns = (
        TextColumn("{task.description:20s}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=sweep.steps, told="")
        async for each in sweep.run():
            match each:
                case Trial(knob=knob, value=value, told=told):
                    progress.update(task, advance=1, description=knob, told=f"{value} {told}".strip())
                case Tuned(knob=knob, why=why):
                    reasons[knob] = why
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    origin = (
        f"Written by `vwire tune` on {platform.node()}, {os.cpu_count()} CPUs, Linux {platform.release()}, {today}."
    )
    written = output.with_name(f".{output.name}.new")
    try:
        written.write_text(dump(sweep.profile, origin=origin), encoding="utf-8")
        written.replace(output)
    except OSError as error:
        written.unlink(missing_ok=True)
        raise ConfigError(f"profile {output} cannot be written", detail=str(error)) from error
    table = Table("knob", "value", "because", box=None)
    for name, text in texts(sweep.profile).items():
        table.add_row(name, text, reasons.get(name, "default"))
    console.print(table)
    console.print(f"written to {output}; use it with: vwire forwarder --profile {output}", soft_wrap=True)
