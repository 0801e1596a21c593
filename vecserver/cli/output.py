"""What the commands that ask a server share: their options, and tables or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vecserver_client.control import ControlClient

__all__ = ["DEFAULT_URL", "AsJson", "Url", "connect", "print_json", "print_pairs", "print_table"]

Url = Annotated[str, typer.Option("--url", envvar="VECSERVER_URL", help="Address of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def connect(url: str) -> ControlClient:
    """A client of the server at an address; close it."""
    from vecserver_client.control import ControlClient

    return ControlClient(url)


def print_json(value: Any) -> None:
    """Print a JSON value, indented."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Print rows under headings, or a sentence where there are none.

    Args:
        columns: The headings.
        rows: As many values each; numbers stand to the right.
        empty: The sentence.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = [list(row) for row in rows]
    if not lines:
        typer.echo(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        is_number = all(isinstance(line[i], int | float) for line in lines)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(str(value)) for value in line))
    Console().print(table)


def print_pairs(values: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name:<{width}}  {value}")
