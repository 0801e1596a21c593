"""``vecserver keygen``: the keys by which a server's pools encrypt what they send to other machines."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

__all__ = ["register"]


def keygen(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them; made if it is not there.")],
) -> None:
    """Make a server's key pair: vecserver.key, for its owner alone, and vecserver.pub.

    `vecserver serve --curve-key DIR/vecserver.key` takes it. Without one a server makes keys for itself at each start.
    """
    from vecserver.pools.curve import NO_CURVE, has_curve, new_keys, write_keys

    if not has_curve():
        raise typer.BadParameter(f"this installation's libzmq has no CURVE: {NO_CURVE}")
    try:
        secret, public = write_keys(folder, new_keys())
    except FileExistsError as error:
        raise typer.BadParameter(f"{error.filename} is there already, and is not replaced") from None
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be written to: {error.strerror}") from None
    typer.echo(f"secret key: {secret}  (vecserver serve --curve-key {secret})")
    typer.echo(f"public key: {public}")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(keygen)
