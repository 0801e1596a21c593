"""``vecserver demo``: a server, a pool of 64 CartPoles, and a PPO trainer that learns on it, watched live."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from vecserver.wire.errors import LocalError

if TYPE_CHECKING:
    from types import ModuleType

    from rich.table import Table

__all__ = ["register"]

_TARGET: Final = 475.0
_COMPARE_SECONDS: Final = 4.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    *,
    env_id: Annotated[str, typer.Option("--env", help="Environment to learn.")] = "CartPole-v1",
    num_envs: Annotated[int, typer.Option(help="Rows of the pool.")] = 64,
    transport: Annotated[str, typer.Option(help="shm, tcp, ipc, ws or auto.")] = "tcp",
    seed: Annotated[int, typer.Option(help="Seed of the trainer and of the environments.")] = 1,
    target: Annotated[float, typer.Option(help="Mean return of the last 100 episodes to stop at.")] = _TARGET,
    max_env_steps: Annotated[int, typer.Option(help="Environment steps to stop at.")] = 2_000_000,
    url: Annotated[str | None, typer.Option(envvar="VECSERVER_URL", help="A server that runs already.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead.")] = False,
) -> None:
    """Train PPO on a pool of 64 CartPoles until it is solved, and say how fast that was."""
    import vecserver_client as vs

    trainer = _load_trainer()
    notify = _quiet if as_json else typer.echo
    notify(f"Starting {'a server' if url is None else f'on {url}'} and a pool of {num_envs} {env_id} …")
    try:
        with vs.make_vec(env_id, num_envs, url=url, transport=transport) as envs:
            notify(f"Pool {envs.pool} is ready, stepped over {envs.transport}.")
            progress = _train(trainer, envs, seed, target, max_env_steps, live=not as_json)
            stats = envs.stats()
        notify(f"The same trainer on a local AsyncVectorEnv, for {_COMPARE_SECONDS:g} s …")
        local = _measure_local(trainer, env_id, num_envs)
    except KeyboardInterrupt:
        notify("Interrupted: the pool and its server are gone.")
        raise typer.Exit(130) from None
    summary = {
        "solved": progress.solved,
        "mean_return": progress.mean_return,
        "episodes": progress.episodes,
        "updates": progress.update,
        "env_steps": progress.env_steps,
        "elapsed_s": progress.elapsed_s,
        "transport": envs.transport,
        "rollout_steps_per_s": progress.rollout_steps_per_s,
        "async_vector_env_steps_per_s": local,
        "rss_bytes": {"host": stats.host_rss_bytes, "workers": stats.rss_bytes},
    }
    if as_json:
        from vecserver.cli.output import print_json

        print_json(summary)
    else:
        _print_summary(summary, target)
    if not progress.solved:
        raise typer.Exit(1)


def _quiet(_text: str) -> None:
    """Say nothing."""


def _load_trainer() -> ModuleType:
    """The example trainer: in the wheel beside this module, in a clone under ``examples/``."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "examples", here.parents[2] / "examples"):
        path = folder / "ppo_numpy.py"
        if path.is_file():
            spec = importlib.util.spec_from_file_location("ppo_numpy", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # its dataclasses look their module up
            spec.loader.exec_module(module)
            return module
    raise LocalError("the example trainer examples/ppo_numpy.py is not installed: run the demo from a clone")


def _train(trainer: ModuleType, envs: Any, seed: int, target: float, max_env_steps: int, *, live: bool) -> Any:
    from rich.console import Console
    from rich.live import Live

    arguments = {"seed": seed, "target_return": target, "max_env_steps": max_env_steps}
    if not live:
        return trainer.train(envs, **arguments)
    console = Console()
    if not console.is_terminal:  # a log file: a line every few updates
        return trainer.train(envs, on_update=_line_printer(console), **arguments)
    with Live(console=console, refresh_per_second=8) as display:
        return trainer.train(
            envs, on_update=lambda now: display.update(_progress_table(now, target, envs.transport)), **arguments
        )


def _line_printer(console: Any) -> Any:
    every = 5

    def show(now: Any) -> None:
        if now.update % every == 0 or now.solved:
            console.print(
                f"update {now.update:4d}  return {now.mean_return:6.1f}  episodes {now.episodes:6d}  "
                f"env steps {now.env_steps:9,d}  {now.rollout_steps_per_s:9,.0f} env steps/s",
                highlight=False,
                soft_wrap=True,
            )

    return show


def _progress_table(now: Any, target: float, transport: str) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    known = not math.isnan(now.mean_return)
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "return, last 100 episodes", f"{now.mean_return:.1f} of {target:g}" if known else "no episode ended yet"
    )
    table.add_row("", ProgressBar(total=target, completed=min(now.mean_return, target) if known else 0, width=40))
    table.add_row("updates", f"{now.update}")
    table.add_row("episodes", f"{now.episodes:,}")
    table.add_row("env steps", f"{now.env_steps:,}")
    table.add_row("env steps/s while stepping", f"{now.rollout_steps_per_s:,.0f} over {transport}")
    table.add_row("env steps/s with learning", f"{now.env_steps_per_s:,.0f}")
    table.add_row("elapsed", f"{now.elapsed_s:.1f} s")
    return table


def _measure_local(trainer: ModuleType, env_id: str, num_envs: int) -> float:
    import gymnasium

    envs = gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="async")
    try:
        rate: float = trainer.measure(envs, _COMPARE_SECONDS)
    finally:
        envs.close()
    return rate


def _print_summary(summary: dict[str, Any], target: float) -> None:
    mebi = 1 << 20
    verdict = "Solved" if summary["solved"] else "Not solved"
    ratio = summary["rollout_steps_per_s"] / summary["async_vector_env_steps_per_s"]
    memory = summary["rss_bytes"]
    workers = " + ".join(f"{size / mebi:.0f}" for size in memory["workers"])
    typer.echo(f"\n{verdict}: mean return {summary['mean_return']:.1f}, last 100 episodes (target {target:g}).")
    for name, value in (
        (
            "trained",
            f"{summary['episodes']:,} episodes, {summary['env_steps']:,} env steps in {summary['updates']} updates",
        ),
        ("time", f"{summary['elapsed_s']:.1f} s"),
        (f"stepping over {summary['transport']}", f"{summary['rollout_steps_per_s']:,.0f} env steps/s"),
        (
            "a local AsyncVectorEnv",
            f"{summary['async_vector_env_steps_per_s']:,.0f} env steps/s, {ratio:.1f} times fewer",
        ),
        ("memory", f"host {memory['host'] / mebi:.0f} MiB, workers {workers} MiB"),
    ):
        typer.echo(f"  {name:<24}{value}")
