"""vwire: a forwarder for Network Service Mesh, and the mesh around it.

A client asks for a network service by name; a forwarder makes a virtual wire between the
client and an endpoint, and carries its frames.

Try it on this machine: `vwire up` makes a local mesh, shows frames on its wires, and takes
it away again.
"""

import importlib
import os
from importlib import metadata
from typing import Final

import rich_click as click

# Before gRPC is imported: it would tell on stderr what its transports do.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

COMMANDS: Final = ("up", "down", "forwarder", "client", "endpoint", "authority", "memif-ping", "tune")
"""Every program, in the order of the list; the module of the same name holds the command."""

# A blank line in a docstring is one in the help.
click.rich_click.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"


class Programs(click.RichGroup):
    """Finds a program's command in the module named like it, imported only when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the programs in the order of the list."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one program."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"forwarder.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


def version() -> str:
    """Returns the installed package's version."""
    try:
        return metadata.version("vwire")
    except metadata.PackageNotFoundError:
        return "(run from its source, not installed)"


@click.group(name="vwire", cls=Programs, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="vwire")
def main() -> None:
    """Runs one program."""
