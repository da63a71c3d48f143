"""vwire: a forwarder for Network Service Mesh, and the mesh around it.

A client asks for a network service by name; a forwarder makes a virtual wire between the
client and an endpoint, and carries its frames.

Try it on this machine: `vwire up` makes a local mesh, shows frames on its wires, and takes
it away again.
"""

import importlib
import os
from typing import Final

import rich_click as click

# Before gRPC is imported: it would tell on stderr what its transports do.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

COMMANDS: Final[dict[str, str]] = {
    "up": "make a local mesh on this machine and show what flows",
    "down": "take a local mesh away, also one whose process was killed",
    "forwarder": "join clients and endpoints by virtual wires",
    "client": "put virtual wires into a network namespace and keep them alive",
    "endpoint": "serve a network service that hands out addresses and answers pings",
    "memif-ping": "ping through a memif virtual wire, as an application without a kernel interface",
}
"""Every program and its line in the list; the module of the same name holds the command."""


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

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list without importing every program."""
        with formatter.section("Programs"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(name="vwire", cls=Programs, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vwire", prog_name="vwire")
def main() -> None:
    """Runs one program."""
