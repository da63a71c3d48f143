"""Command-line flags made from a settings class, so that --help and the README say the same."""

from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click

from forwarder import config

F = TypeVar("F", bound=Callable[..., Any])


def settings_flags(program: type[config.Settings], *, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Adds a flag for every setting of `program` but those in `without`.

    The command receives them by field name, None when not given; `config.load` puts them
    before the environment and the defaults.
    """

    def add(command: F) -> F:
        for row in reversed(config.describe(program)):
            if row.field in without:
                continue
            default = f"default: {row.default}" if row.default else "default: empty"
            command = click.option(
                row.flag,
                row.field,
                type=str,
                default=None,
                multiple=row.is_list,
                callback=_joined if row.is_list else None,
                metavar="TEXT",
                help=f"{row.description}. [{row.variable}; {default}]",
            )(command)
        return command

    return add


def _joined(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Makes of a repeated flag what its variable would say."""
    return ",".join(values) if values else None


def insecure_flag(command: F) -> F:
    """Adds --insecure, without which nothing is served or called in plain text."""
    return click.option(
        "--insecure",
        is_flag=True,
        help="Serve and call without TLS: everyone who can reach the socket is trusted.",
    )(command)
