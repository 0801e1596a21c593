"""``vecserver envs``: what a pool can be made of."""

from __future__ import annotations

from typing import Annotated

import typer

from vecserver.cli.output import DEFAULT_URL, AsJson, Url, connect, print_json, print_table

__all__ = ["register"]


def envs(
    query: Annotated[str | None, typer.Argument(help="Only ids that contain this text.")] = None,
    url: Url = DEFAULT_URL,
    *,
    as_json: AsJson = False,
) -> None:
    """List the environments that are registered at a server."""
    with connect(url) as client:
        found = client.envs(query)
    if as_json:
        print_json(found)
        return
    rows = [(env["id"], env["max_episode_steps"] or "", env["entry_point"] or "") for env in found]
    print_table(("id", "max steps", "entry point"), rows, empty="no registered environment has such an id")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(envs)
