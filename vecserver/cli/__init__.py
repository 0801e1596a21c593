"""The command line. Importing it is light: a command imports what it needs when it runs."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Final

import typer

from vecserver import __version__
from vecserver.wire.errors import VecServerError

__all__ = ["app", "main"]

_COMMANDS: Final = ("serve", "token", "keygen", "login", "envs", "pools", "demo", "bench", "verify", "doctor")
"""Modules of this package with a ``register(app)``, in the order of the help text."""

app = typer.Typer(
    name="vecserver",
    help="Step batches of Gymnasium environments from anywhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:  # noqa: FBT001  # typer passes the option's value
    if asked:
        typer.echo(f"vecserver {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[  # its callback does the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for _name in _COMMANDS:
    import_module(f"{__name__}.{_name}").register(app)


def main() -> None:
    """Run the command line: exit code 1 and one line on stderr for an error, 2 for wrong usage."""
    try:
        app()
    except VecServerError as error:
        typer.secho(f"error [{error.code}]: {error.message}", fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None
