"""``vecserver token``: this user's server's token, and new ones for others."""

from __future__ import annotations

from typing import Annotated

import typer

from vecserver.cli.output import DEFAULT_URL, AsJson, Url, print_json
from vecserver.wire.errors import Unauthorized

__all__ = ["register"]

tokens = typer.Typer(no_args_is_help=True, help="Show the token of a server, and make tokens for others.")


def _token_of(url: str) -> str:
    from vecserver_client.credentials import choose

    token = choose(url, None)[1]
    if token is None:
        raise Unauthorized(
            f"no token is known for {url}: no server of this user's listens there, on this machine. Another's is given "
            "as VECSERVER_TOKEN"
        )
    return token


@tokens.command("show")
def show(url: Url = DEFAULT_URL) -> None:
    """Print the token that commands and clients of this user send to a server."""
    typer.echo(_token_of(url))


@tokens.command("header")
def header(url: Url = DEFAULT_URL) -> None:
    """Print it as a header: vecserver token header | curl -H @- http://127.0.0.1:8000/v1/pools."""
    typer.echo(f"Authorization: Bearer {_token_of(url)}")


@tokens.command("new")
def new(
    scope: Annotated[str, typer.Option(help="read, use, create or admin; each has those before it.")],
    name: Annotated[str, typer.Option(help="For people.")] = "somebody",
    *,
    as_json: AsJson = False,
) -> None:
    """Make a token for somebody: the token itself, which is kept nowhere, and what a server's file of tokens needs."""
    from vecserver.control.access.scopes import Scope
    from vecserver.control.access.tokens import digest_of, new_token

    try:
        chosen = Scope.named(scope)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scope") from None
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise typer.BadParameter("letters, digits, - and _", param_hint="--name")
    token = new_token()
    if as_json:
        print_json({"name": name, "scope": str(chosen), "token": token, "sha256": digest_of(token)})
        return
    typer.echo(f"{token}\n", err=True)
    typer.echo(f'[tokens.{name}]\nsha256 = "{digest_of(token)}"\nscope = "{chosen}"')


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(tokens, name="token")
