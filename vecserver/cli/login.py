"""``vecserver login``: a link that logs a browser in."""

from __future__ import annotations

import typer

from vecserver.cli.output import DEFAULT_URL, Url, connect

__all__ = ["register"]


def login(url: Url = DEFAULT_URL) -> None:
    """Print a link that logs one browser in: it is good once, and for ten minutes."""
    with connect(url) as client:
        typer.echo(client.make_login())


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(login)
