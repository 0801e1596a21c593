"""``vecserver doctor``: say whether a server with these settings would work here, and what to change."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from vecserver.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from vecserver.cli.diagnosis.finding import Finding
    from vecserver.config import Settings

__all__ = ["register"]

_COLOURS: Final = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def doctor(
    host: Annotated[str | None, typer.Option(help="As for serve.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="As for serve.", show_default="8000")] = None,
    data_ports: Annotated[
        str | None, typer.Option(metavar="A-B", help="As for serve.", show_default="any free ones")
    ] = None,
    max_pools: Annotated[int | None, typer.Option(help="As for serve.", show_default="64")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="As for serve.", show_default="~/.local/state/vecserver")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Check whether a server with these settings would work on this machine, and say what to change.

    Other settings are taken from the same VECSERVER_ variables as by serve. Exit code 1 when something would keep the
    server from working; what would only make it slow or small is a warning.
    """
    findings = _examine(host=host, port=port, data_port_range=data_ports, max_pools=max_pools, state_dir=state_dir)
    works = all(each.status != "fail" for each in findings)
    if as_json:
        print_json({"ok": works, "checks": [asdict(each) for each in findings]})
    else:
        _print(findings)
    if not works:
        raise typer.Exit(1)


def _examine(**given: object) -> list[Finding]:
    from vecserver import config
    from vecserver.cli.diagnosis import kernel, packages
    from vecserver.cli.diagnosis.finding import fail

    findings = [
        *packages.check_versions(),
        packages.check_extras(),
        kernel.check_descriptors_of_processes(),
        kernel.check_shared_memory(),
        kernel.check_peers(),
        kernel.check_clock(),
    ]
    try:
        settings = config.load(insecure=True, **given)
    except ValueError as error:
        return [*findings, fail("settings", str(error), "correct the option or the variable")]
    return findings + _examine_settings(settings)


def _examine_settings(settings: Settings) -> list[Finding]:
    from vecserver.cli.diagnosis import limits, places

    return [
        limits.check_cores(),
        limits.check_memory(settings),
        limits.check_descriptors(settings),
        limits.check_processes(settings),
        places.check_http_port(settings),
        places.check_data_ports(settings),
        places.check_runtime_dir(settings),
        places.check_state_dir(settings),
    ]


def _print(findings: list[Finding]) -> None:
    width = max(len(each.check) for each in findings)
    for each in findings:
        mark = typer.style(f"{each.status:<4}", fg=_COLOURS[each.status], bold=each.status != "ok")
        typer.echo(f"{mark}  {each.check:<{width}}  {each.found}")
        if each.advice:
            typer.echo(f"{'':<{width + 8}}→ {each.advice}")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(doctor)
