"""``vecserver bench``: how fast a pool steps here, beside what bounds it and what it replaces."""

from __future__ import annotations

from itertools import product
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from vecserver.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.cli.measure.matrix import CannotRun
    from vecserver.cli.measure.question import Question
    from vecserver.cli.measure.report import Report

__all__ = ["register"]

_AGAIN = "may be given again"


def bench(
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help=f"A registered id, or module:Id-v0; {_AGAIN}.", show_default="CartPole-v1"),
    ] = None,
    num_envs: Annotated[
        list[int] | None,
        typer.Option("--num-envs", "-n", min=1, help=f"Rows of every subject; {_AGAIN}.", show_default="64"),
    ] = None,
    transport: Annotated[
        list[str] | None,
        typer.Option(help=f"Transport of a pool: shm, tcp, ipc or ws; {_AGAIN}.", show_default="shm, tcp and ipc"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="Seconds of each subject's turn in a round.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after a shorter one that does not.")] = 5,
    engine: Annotated[
        list[str] | None,
        typer.Option(help=f"The pools' engine: auto, envs, async, sync or native; {_AGAIN}.", show_default="auto"),
    ] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(min=1, help=f"The pools' worker processes; {_AGAIN}.", show_default="as many as pay"),
    ] = None,
    parts: Annotated[
        list[int] | None,
        typer.Option(min=1, help=f"Split a pool into parts and step them in turns; {_AGAIN}.", show_default="1"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="STEPS_PER_S",
            help="Ask for batches at this rate, and count their times from when each was due.",
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(envvar="VECSERVER_URL", help="A server.", show_default="a private one")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PYTHON",
            help=f"The interpreter that has a peer: sb3, pufferlib, envpool, rlmesh or openenv; {_AGAIN}.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the rates over the rows, and over the workers.")
    ] = None,
    *,
    autotune: Annotated[
        bool,
        typer.Option(
            "--autotune", help="Measure numbers of workers instead, over the first transport, of the first pool."
        ),
    ] = False,
    where: Annotated[bool, typer.Option("--where", help="Find out where a batch's time goes.")] = False,
    peers: Annotated[bool, typer.Option(help="Measure the peers that are installed too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compare pools with their peers and with the machine's ceiling, in turns in one run.

    The ceiling is a process a core, each stepping environments of its own in a bare loop. Machines drift: compare the
    ratios of two runs, not their rates. Every combination of --env and --num-envs is a run of its own; in it, every
    combination of --transport, --engine and --workers is a pool.
    """
    from vecserver.cli.measure.matrix import as_json as to_json
    from vecserver.cli.measure.peers import chosen_peers, parse_interpreters
    from vecserver.cli.measure.question import CHOICES, TRANSPORTS, Question

    if autotune:
        _autotune(
            (env or ["CartPole-v1"])[0],
            (num_envs or [64])[0],
            (transport or ["shm"])[0],
            seconds,
            rounds,
            url,
            as_json=as_json,
        )
        return
    if where and url is not None:
        raise typer.BadParameter("it looks into the pool's processes, and needs a private server", param_hint="--where")
    if rate is not None and (plot is not None or where):
        raise typer.BadParameter(
            "--plot and --where are of batches that follow each other at once", param_hint="--rate"
        )
    if rate is not None and any(count > 1 for count in parts or ()):
        raise typer.BadParameter("the parts of a pool are stepped as fast as goes", param_hint="--rate")
    for name in transport or ():
        if name not in CHOICES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(CHOICES)}", param_hint="--transport")
    if where and "ws" in (transport or ()):
        raise typer.BadParameter("it looks into pools without a web server, which ws is about", param_hint="--where")
    if plot is not None:
        from vecserver.cli.measure.plot import check_can_plot

        check_can_plot(plot)
    chosen = chosen_peers(parse_interpreters(peer or ()), native="native" in (engine or ()))
    questions = [
        Question(
            env_id=env_id,
            num_envs=rows,
            transports=transport or TRANSPORTS,
            seconds=seconds,
            rounds=rounds,
            engines=engine or ("auto",),
            workers=workers or (None,),
            parts=parts or (1,),
            url=url,
            peers=chosen.interpreters if peers else {},
            missing_peers=chosen.missing if peers else (),
            rate=rate,
            where=where,
        )
        for env_id, rows in product(dict.fromkeys(env or ["CartPole-v1"]), dict.fromkeys(num_envs or [64]))
    ]
    results, interrupted = _results(questions, show=not as_json)
    if as_json:
        print_json(to_json(results))
    if plot is not None:
        _draw(results, plot)
    if interrupted:
        raise typer.Exit(130)
    if not any(_is_report(result) for result in results):
        raise typer.Exit(1)


def _autotune(
    env: str, num_envs: int, transport: str, seconds: float, rounds: int, url: str | None, *, as_json: bool
) -> None:
    """Show the search over numbers of workers, and which of them creation picks by itself."""
    from dataclasses import asdict

    from vecserver.cli.measure.autotune import COLUMNS, search, table_rows

    found = search(
        env,
        num_envs,
        transport,
        seconds=seconds,
        rounds=rounds,
        url=url,
        progress=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(f"\n{env} × {num_envs} over {transport}, {rounds} rounds of {seconds:g} s\n")
        print_table(COLUMNS, table_rows(found), empty="")


def _results(questions: Sequence[Question], *, show: bool) -> tuple[list[Report | CannotRun], bool]:
    """The results as far as they came, and whether Ctrl-C ended it."""
    from vecserver.cli.measure.matrix import compare_all

    results: list[Report | CannotRun] = []
    try:
        for result in compare_all(questions, _progress):
            results.append(result)
            if show:
                _print_result(result)
    except KeyboardInterrupt:
        if not results:
            raise
        _progress("interrupted: what was measured before is all there is")
        return results, True
    return results, False


def _print_result(result: Report | CannotRun) -> None:
    from vecserver.cli.measure.display import print_report
    from vecserver.cli.measure.report import Report

    if isinstance(result, Report):
        print_report(result)
    else:
        typer.echo(f"\n{result.env_id} × {result.num_envs}\n\nnot measured [{result.code}]: {result.message}")


def _is_report(result: Report | CannotRun) -> bool:
    from vecserver.cli.measure.report import Report

    return isinstance(result, Report)


def _draw(results: Sequence[Report | CannotRun], path: Path) -> None:
    from vecserver.cli.measure.plot import draw
    from vecserver.cli.measure.report import Report

    if reports := [result for result in results if isinstance(result, Report)]:
        draw(reports, path)
        _progress(f"drawn: {path}")


def _progress(text: str) -> None:
    typer.echo(text, err=True)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(bench)
