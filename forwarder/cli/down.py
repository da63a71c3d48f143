"""Takes a local mesh away: its processes, namespaces, links and sockets.

Works whether `vwire up` still runs, has ended, or was killed. Without NAME, every mesh that
`vwire up` recorded is taken away. Nothing to do is no error.
"""

import rich_click as click

from forwarder import config
from forwarder.cli import program
from forwarder.cli.remains import Remains


@click.command(name="down", help=__doc__)
@click.argument("name", required=False)
@click.option("--run-dir", "run_dir", default=None, help="Where `vwire up` keeps its records. [NSM_RUN_DIR]")
def command(name: str | None, run_dir: str | None) -> None:
    """Runs `vwire down`."""
    with program.errors_told("down"):
        settings = config.load(config.UpSettings, {"run_dir": run_dir})
        found = [name] if name is not None else Remains.recorded(settings.run_dir)
        for each in found:
            for line in Remains.load(settings.run_dir, each).remove():
                click.echo(f"{each}: {line}")
        if not found:
            click.echo("there is no local mesh")
