"""``vecserver bench``: how fast a pool steps here, beside what bounds it and what it replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vecserver.cli.output import AsJson, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from vecserver.cli.measure.report import Report

__all__ = ["register"]


def bench(
    env: Annotated[str, typer.Option("--env", help="A registered id, or module:Id-v0.")] = "CartPole-v1",
    num_envs: Annotated[int, typer.Option("--num-envs", "-n", min=1, help="Rows of every subject.")] = 64,
    transport: Annotated[
        list[str] | None, typer.Option(help="Transport of a pool; may be given again.", show_default="shm, tcp and ipc")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.001, help="Seconds of each subject's turn in a round.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count, after a shorter one that does not.")] = 5,
    engine: Annotated[str, typer.Option(help="The pools' engine: auto, envs, async or sync.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="The pools' worker processes.", show_default="as many as pay")
    ] = None,
    url: Annotated[
        str | None, typer.Option(envvar="VECSERVER_URL", help="A server.", show_default="a private one")
    ] = None,
    *,
    peers: Annotated[bool, typer.Option(help="Measure Gymnasium's Async- and SyncVectorEnv too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compare pools with Gymnasium's vector environments and with the machine's ceiling, in turns in one run.

    The ceiling is a process a core, each stepping environments of its own in a bare loop. Machines drift: compare the
    ratios of two runs, not their rates.
    """
    from dataclasses import asdict

    from vecserver.cli.measure.compare import Question, compare

    question = Question(
        env_id=env,
        num_envs=num_envs,
        transports=transport or ("shm", "tcp", "ipc"),
        seconds=seconds,
        rounds=rounds,
        engine=engine,
        workers=workers,
        url=url,
        peers=peers,
    )
    report = compare(question, progress=lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)


def _print_report(report: Report) -> None:
    from vecserver.cli.measure.report import COLUMNS, table_rows

    typer.echo(f"\n{report.env_id} × {report.num_envs}, {report.rounds} rounds of {report.seconds:g} s\n")
    print_table(COLUMNS, table_rows(report), empty="")
    typer.echo()
    print_pairs(_facts(report))


def _facts(report: Report) -> dict[str, str]:
    machine = report.machine
    affinity = ",".join(map(str, machine["affinity"]))
    facts = {
        "machine": f"{machine['cpu']}, {machine['cores']} cores, may use {affinity}, load {machine['load_1m']}",
        "kernel": machine["kernel"],
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
        "ceiling": f"{report.ceiling_processes} processes",
    }
    first_batch_s = {subject.name: subject.first_batch_s for subject in report.subjects}
    for pool in report.pools:
        workers = " + ".join(_mib(size) for size in pool.worker_rss_bytes)
        facts[pool.subject] = (
            f"engine {pool.engine}, workers {pool.workers}, first batch after {first_batch_s[pool.subject]:.2f} s, "
            f"arena {pool.arena_bytes >> 10} KiB, resident MiB: host {_mib(pool.host_rss_bytes)}, workers {workers}"
        )
    if report.server_rss_bytes is not None:
        facts["server"] = f"resident MiB: {_mib(report.server_rss_bytes)}"
    return facts


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f}"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(bench)
