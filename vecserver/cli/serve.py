"""``vecserver serve``: run a server until it is told to stop."""

from __future__ import annotations

import gc
import os
import stat
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from vecserver.cli.output import DEFAULT_URL

if TYPE_CHECKING:
    from vecserver.serve import Announcement

__all__ = ["register"]


class LogFormat(StrEnum):
    """How a server writes it."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """How much a server writes to stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 for any free one.", show_default="8000")] = None,
    data_ports: Annotated[
        str | None,
        typer.Option(metavar="A-B", help="Ports of the pools' ZeroMQ sockets.", show_default="any free ones"),
    ] = None,
    max_pools: Annotated[int | None, typer.Option(help="Pools at once.", show_default="64")] = None,
    max_num_envs: Annotated[int | None, typer.Option(help="Rows of one pool.", show_default="4096")] = None,
    allow_env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Environments that may be made, by id; `gymnasium` stands for Gymnasium's own. Repeat for more.",
            show_default="gymnasium",
        ),
    ] = None,
    allow_module: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A module that may be named in module:Id-v0; repeat for more."),
    ] = None,
    allow_kwarg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENVGLOB:NAME",
            help="An argument of environments that is taken although it names a file or code, or an attribute that "
            "drivers may reach although it begins with an underscore; repeat for more.",
        ),
    ] = None,
    pass_env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="A variable that environments have although it looks like a credential; repeat for more.",
        ),
    ] = None,
    worker_memory: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Address space of each process of environments.")
    ] = None,
    worker_user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whom processes of environments run as; needs root.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Listen beyond this machine without encryption; HTTP still takes a token."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file with this server's admin token; or VECSERVER_TOKEN.", show_default="a new one"
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A TOML file of hashed tokens with scopes (`vecserver token new`)."),
    ] = None,
    print_token: Annotated[
        bool | None, typer.Option("--print-token", help="Print a token that was made, for a container's log.")
    ] = None,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Names by which requests may call this server, with commas between."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    openenv_public: Annotated[
        bool | None,
        typer.Option("--openenv-public", help="Open OpenEnv's routes and the page, to look at, to everybody."),
    ] = None,
    curve_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Secret key of the pools' encrypted tcp sockets, as `vecserver keygen` writes it.",
            show_default="one made at start, beyond loopback",
        ),
    ] = None,
    openenv_env: Annotated[
        str | None,
        typer.Option(help="Environment of OpenEnv clients that name none.", show_default="CartPole-v1"),
    ] = None,
    openenv_sessions: Annotated[int | None, typer.Option(help="OpenEnv sessions at once.", show_default="512")] = None,
    openenv_idle_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds without a message after which a session is ended.", show_default="1800"),
    ] = None,
    openenv_step_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds that a session's environment may take for a message.", show_default="60"),
    ] = None,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="A durable pool, as name=train,env=CartPole-v1,num_envs=64, or a JSON object; repeat for more.",
        ),
    ] = None,
    pools: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of durable pools.")] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where durable pools are kept that are made over HTTP.",
            show_default="~/.local/state/vecserver",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None,
        typer.Option(help="One line of JSON an event, or text.", show_default="text at a terminal, else json"),
    ] = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="What is written to stderr.", show_default="info; warning with --parent-fd")
    ] = None,
    parent_fd: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="An inherited Unix stream socket: the address is written to it, and its end ends the server.",
        ),
    ] = None,
) -> None:
    """Run a server until Ctrl+C or SIGTERM.

    Each setting may be a variable instead: VECSERVER_PORT, VECSERVER_DATA_PORT_RANGE and so on. Variables without an
    option are VECSERVER_MAX_ARENA_BYTES, VECSERVER_MAX_TOTAL_ARENA_BYTES, VECSERVER_MAX_CREATIONS,
    VECSERVER_START_TIMEOUT, VECSERVER_GRACE and VECSERVER_RUNTIME_DIR, and for OpenEnv's sessions
    GYM_ENVIRONMENT_ID (as --openenv-env), GYM_RENDER_MODE, GYM_MAX_STEPS and GYM_SEED.
    """
    from vecserver import config, serve

    if parent_fd is not None and not _is_socket(parent_fd):
        raise typer.BadParameter(f"{parent_fd} is no open socket", param_hint="--parent-fd")
    is_private = parent_fd is not None
    # its one caller could make the same environments without it
    anything, any_kwarg = (("*",), ("*:*",)) if is_private else (None, None)
    try:
        settings = config.load(
            host=host,
            port=port,
            data_port_range=data_ports,
            max_pools=max_pools,
            max_num_envs=max_num_envs,
            allow_env=tuple(allow_env or ()) or anything,
            allow_module=tuple(allow_module or ()) or anything,
            allow_kwarg=tuple(allow_kwarg or ()) or any_kwarg,
            pass_env=tuple(pass_env or ()) or anything,
            worker_memory=worker_memory,
            worker_user=worker_user,
            insecure=insecure,
            token_file=token_file,
            tokens=tokens,
            allowed_hosts=allowed_hosts,
            tls_cert=tls_cert,
            tls_key=tls_key,
            openenv_public=openenv_public,
            curve_key=curve_key,
            pool=tuple(pool) if pool else None,
            pools=pools,
            state_dir=state_dir,
            openenv_env=openenv_env,
            openenv_sessions=openenv_sessions,
            openenv_idle_timeout=openenv_idle_timeout,
            openenv_step_timeout=openenv_step_timeout,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    is_private, was_made = parent_fd is not None, settings.given_token is None
    serve.run(
        settings,
        parent_fd=parent_fd,
        log_level=log_level or (LogLevel.WARNING if is_private else LogLevel.INFO),
        log_format=log_format or (LogFormat.TEXT if is_private or sys.stderr.isatty() else LogFormat.JSON),
        announce=None if is_private else partial(_announce, print_token=print_token is True and was_made),
    )
    gc.freeze()  # the interpreter's last collection looks for a second at what the process's end frees at once


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _announce(server: Announcement, *, print_token: bool) -> None:
    from vecserver.outlet import outlive

    out = outlive(sys.stdout)  # a server that cannot say it on a full disk is one all the same
    url, body = server.url, '{"env_id": "CartPole-v1", "num_envs": 8}'
    which = "" if url == DEFAULT_URL else f" --url {url}"
    out.write(f"vecserver at {url}  (page at {url}/web, docs at {url}/docs, Ctrl+C stops it)\n")
    out.write(f"a first pool:  vecserver token header{which} | curl -H @- {url}/v1/pools --json '{body}'\n")
    out.write(f"for a browser, once, within ten minutes:  {server.login}\n")
    if print_token:
        out.write(f"token: {server.token}\n")
    out.flush()


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(serve)
