"""``vecserver pools``: make, list, show, reset and delete the pools of a server."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final

import msgspec
import typer

from vecserver.cli.output import DEFAULT_URL, AsJson, Url, connect, print_json, print_pairs, print_table
from vecserver.wire.figures import EpisodeFigures, Histogram

__all__ = ["parse_object", "register"]

PoolId = Annotated[str, typer.Argument(metavar="POOL", help="Id of the pool.")]

_FIGURES: Final = ("p50 ms", "p99 ms", "skew", "return", "length")
"""Of batches, workers and episodes, since the pool was made: docs/metrics.md says what they are."""

pools = typer.Typer(help="Make, list, show, reset and delete pools.", no_args_is_help=True)


@pools.command("list")
def list_pools(url: Url = DEFAULT_URL, *, as_json: AsJson = False) -> None:
    """List the pools."""
    with connect(url) as client:
        found = client.list_pools()
    if as_json:
        print_json(found)
        return
    columns = ("pool", "env", "rows", "workers", "engine", "state", "driver", "batches", "env steps", *_FIGURES)
    print_table(columns, [_row(pool) for pool in found], empty=f"no pools at {url}")


def _row(pool: dict[str, Any]) -> tuple[Any, ...]:
    described = (pool[name] for name in ("pool", "env_id", "num_envs", "workers", "engine", "state"))
    stats = pool["stats"]
    if stats is None:
        return (*described, *("?",) * (3 + len(_FIGURES)))
    return (*described, stats["driver"] or "-", stats["batches"], stats["env_steps"], *_figures(stats).values())


def _figures(stats: dict[str, Any]) -> dict[str, str]:
    """The figures of ``_FIGURES`` from a pool's counters; a dash where there is none yet."""
    batches = msgspec.convert(stats["batch_seconds"], Histogram)
    episodes = msgspec.convert(stats["episode_figures"], EpisodeFigures)
    busy = stats["worker_busy_s"]
    figures = (
        (batches.quantile(0.5), 1e3, 2),
        (batches.quantile(0.99), 1e3, 2),
        (max(busy) * len(busy) / sum(busy) if sum(busy) else None, 1.0, 2),
        (episodes.mean_return, 1.0, 1),
        (episodes.mean_length, 1.0, 1),
    )
    texts = ["-" if value is None else f"{value * unit:.{digits}f}" for value, unit, digits in figures]
    return dict(zip(_FIGURES, texts, strict=True))


@pools.command("create")
def create_pool(
    env_id: Annotated[str, typer.Argument(metavar="ENV_ID", help="A registered id, or module:Id-v0.")],
    num_envs: Annotated[int, typer.Option("--num-envs", "-n", help="Rows.")],
    engine: Annotated[str | None, typer.Option(help="auto, envs, async, sync or native.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.", show_default="as many as pay")] = None,
    autoreset_mode: Annotated[str | None, typer.Option(help="NextStep, SameStep or Disabled.")] = None,
    observation_mode: Annotated[str | None, typer.Option(help="same, or different for rows of other bounds.")] = None,
    render_mode: Annotated[str | None, typer.Option(help="Passed to gymnasium.make.")] = None,
    kwargs: Annotated[str | None, typer.Option(metavar="JSON", help="Object passed to gymnasium.make.")] = None,
    wrapper: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=JSON]", help="A wrapper of Gymnasium's and its arguments; repeat for more."),
    ] = None,
    info: Annotated[str | None, typer.Option(help="Infos to send: all, episode, none, or keys as a JSON list.")] = None,
    step_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a worker may take for a batch before it is replaced.")
    ] = None,
    lease_ttl: Annotated[float | None, typer.Option(help="Seconds of silence that end a driver's lease.")] = None,
    on_failure: Annotated[
        str | None, typer.Option(help="What a worker's death means for the batch: truncate, raise or replay.")
    ] = None,
    restart_budget: Annotated[
        str | None, typer.Option(help="Workers that may be replaced a minute: a number, or 'none' for any number.")
    ] = None,
    lease_expiry: Annotated[str | None, typer.Option(help="What else it ends: keep, reset or destroy.")] = None,
    name: Annotated[str | None, typer.Option(help="Id of the pool.", show_default="one made up")] = None,
    url: Url = DEFAULT_URL,
    *,
    durable: Annotated[
        bool, typer.Option("--durable", help="Make it again when its host has ended and when the server starts again.")
    ] = False,
    episode_statistics: Annotated[
        bool, typer.Option("--episode-statistics", help="Send return, length and time of episodes that end.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a pool."""
    options = {
        "engine": engine,
        "workers": workers,
        "autoreset_mode": autoreset_mode,
        "observation_mode": observation_mode,
        "render_mode": render_mode,
        "env_kwargs": None if kwargs is None else parse_object(kwargs, "--kwargs"),
        "wrappers": [_parse_wrapper(text) for text in wrapper] if wrapper else None,
        "info": None if info is None else _parse_info(info),
        "episode_statistics": episode_statistics or None,
        "step_timeout": step_timeout,
        "lease_ttl": lease_ttl,
        "on_failure": on_failure,
        "lease_expiry": lease_expiry,
        "name": name,
        "durable": durable or None,
    }
    given = {option: value for option, value in options.items() if value is not None}
    if restart_budget is not None:
        given["restart_budget"] = _parse_budget(restart_budget)
    with connect(url) as client:
        pool = client.create_pool(env_id=env_id, num_envs=num_envs, **given)
    _print_pool(pool, as_json=as_json)


def _parse_budget(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no whole number, nor 'none'", param_hint="--restart-budget") from None


def _parse_json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint=option) from None


def parse_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object that an option holds."""
    value = _parse_json(text, option)
    if not isinstance(value, dict):
        raise typer.BadParameter('a JSON object, as in {"render_fps": 30}', param_hint=option)
    return value


def _parse_wrapper(text: str) -> str | dict[str, Any]:
    name, given, kwargs = text.partition("=")
    return {"id": name, "kwargs": parse_object(kwargs, "--wrapper")} if given else name


def _parse_info(text: str) -> Any:
    return _parse_json(text, "--info") if text.startswith("[") else text


@pools.command("show")
def show_pool(pool: PoolId, url: Url = DEFAULT_URL, *, as_json: AsJson = False) -> None:
    """Show a pool."""
    with connect(url) as client:
        found = client.get_pool(pool)
    _print_pool(found, as_json=as_json)


def _print_pool(pool: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(pool)
        return
    shown = {name: value for name, value in pool.items() if name not in {"spaces", "layout", "stats", "endpoints"}}
    endpoints = {f"endpoint {transport}": address for transport, address in pool["endpoints"].items()}
    stats = pool["stats"] or {}
    figures = _figures(stats) if stats else {}
    counted = {name: value for name, value in stats.items() if name not in {"batch_seconds", "episode_figures"}}
    if "restarts" in counted:  # of workers, where those of the host are ``restarts``
        counted["workers replaced"] = counted.pop("restarts")
    print_pairs({**shown, **endpoints, **counted, **figures})


@pools.command("reset")
def reset_pool(
    pool: PoolId,
    seed: Annotated[int | None, typer.Option(help="Row i gets this seed + i.")] = None,
    url: Url = DEFAULT_URL,
    *,
    as_json: AsJson = False,
) -> None:
    """Reset every row of a pool that no trainer drives."""
    with connect(url) as client:
        batch = client.reset_pool(pool, seed)
    if as_json:
        print_json(batch)
    else:
        typer.echo(f"{pool} is reset")


@pools.command("delete")
def delete_pools(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[POOL]...", help="Ids of pools.")] = None,
    url: Url = DEFAULT_URL,
    *,
    all_pools: Annotated[bool, typer.Option("--all", help="Every pool of the server.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Kill what does not end by itself, at once.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete pools, their processes and their episodes."""
    if bool(ids) == all_pools:
        raise typer.BadParameter("name the pools, or say --all", param_hint="POOL")
    with connect(url) as client:
        doomed = [str(pool["pool"]) for pool in client.list_pools()] if all_pools else list(ids or ())
        for pool in doomed:
            client.delete_pool(pool, force=force)
            if not as_json:
                typer.echo(f"{pool} is deleted")
    if as_json:
        print_json({"deleted": doomed})


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(pools, name="pools")
