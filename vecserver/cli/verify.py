"""``vecserver verify``: whether pools return what Gymnasium's own vector environment returns, to the bit."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vecserver.cli.output import AsJson, print_json
from vecserver.cli.pools import parse_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.cli.equality.local import Question
    from vecserver.cli.equality.report import EnvReport

__all__ = ["register"]

_NATIVE: Final = "native"


def verify(
    env: Annotated[
        list[str] | None, typer.Option("--env", help="A registered id, or module:Id-v0; may be given again.")
    ] = None,
    num_envs: Annotated[int, typer.Option("--num-envs", "-n", min=1, help="Rows.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 200,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the first reset (row i gets this seed + i) and the actions.")
    ] = 0,
    engine: Annotated[
        list[str] | None, typer.Option(help="An engine; may be given again.", show_default="all but native")
    ] = None,
    transport: Annotated[
        list[str] | None, typer.Option(help="A transport; may be given again.", show_default="all of them")
    ] = None,
    autoreset_mode: Annotated[
        list[str] | None,
        typer.Option(help="NextStep, SameStep or Disabled; may be given again.", show_default="all of them"),
    ] = None,
    kwargs: Annotated[str | None, typer.Option(metavar="JSON", help="Object passed to gymnasium.make.")] = None,
    url: Annotated[
        str | None, typer.Option(envvar="VECSERVER_URL", help="A server.", show_default="a private one")
    ] = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Every environment of classic control, toy text and Box2D.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare pools with a SyncVectorEnv in this process, bit by bit, over every engine, transport and autoreset mode.

    Pools of the engine native are compared with the environment's own vector environment in this process.

    Exit status: 0 all equal, 1 something differs, 2 not everything could be verified, 3 an environment is not
    deterministic.
    """
    from vecserver.cli.equality.local import Question, families
    from vecserver.cli.equality.report import ExitStatus, exit_status, lines
    from vecserver.pools.spec import AUTORESET_MODES, ENGINES
    from vecserver.wire.errors import VecServerError
    from vecserver_client.factory import TRANSPORTS

    env_ids = dict.fromkeys([*(families() if every else ()), *(env or ())])
    if not env_ids:
        raise typer.BadParameter("name an environment, or say --all", param_hint="--env")
    engines = _chosen("--engine", engine, [name for name in ENGINES if name != "auto"])
    if engine is None:
        engines.remove(_NATIVE)  # its numbers are its own, and most environments have none
    over = {
        "transports": _chosen("--transport", transport, TRANSPORTS),
        "autoreset_modes": _chosen("--autoreset-mode", autoreset_mode, AUTORESET_MODES),
        "tolerates_unreachable": url is not None and not transport,
    }
    env_kwargs = {} if kwargs is None else parse_object(kwargs, "--kwargs")
    questions = [
        Question(env_id=env_id, env_kwargs=env_kwargs, num_envs=num_envs, steps=steps, seed=seed) for env_id in env_ids
    ]
    try:
        reports = _reports(questions, url, engines, over)
    except VecServerError as error:
        typer.secho(f"error [{error.code}]: {error.message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(ExitStatus.NOT_VERIFIED) from None
    except KeyboardInterrupt:
        typer.echo("Interrupted: the pools and their server are gone.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        typer.echo("\n".join(lines(reports)))
    raise typer.Exit(exit_status(reports, env or ()))


def _reports(
    questions: Sequence[Question], url: str | None, engines: Sequence[str], over: dict[str, Any]
) -> list[EnvReport]:
    """Verify every environment, all at one server; engine ``native``, of which other things are right, by itself."""
    from vecserver.cli.equality.display import Display
    from vecserver.cli.equality.verification import Combinations, verify
    from vecserver.pools.spec import Caps, PoolSpec
    from vecserver_client import LocalServer

    for question in questions:
        PoolSpec(
            env_id=question.env_id,
            num_envs=question.num_envs,
            env_kwargs=question.env_kwargs,
            engine=_NATIVE if engines == [_NATIVE] else "auto",
        ).check(Caps())
    natives = [replace(question, native=True) for question in questions] if _NATIVE in engines else []
    others = [name for name in engines if name != _NATIVE]
    with ExitStack() as stack:
        display = stack.enter_context(
            Display((len(questions) * bool(others) + len(natives)) * len(over["autoreset_modes"]))
        )
        if url is None:
            server = LocalServer()
            stack.callback(server.close)
            url = server.url
        runs = [(question, others) for question in questions if others] + [
            (question, [_NATIVE]) for question in natives
        ]
        return [verify(question, Combinations(url=url, engines=each, **over), display) for question, each in runs]


def _chosen(option: str, given: list[str] | None, known: Sequence[str]) -> Any:
    unknown = [name for name in given or () if name not in known]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}", param_hint=option)
    return list(dict.fromkeys(given or known))


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(verify)
