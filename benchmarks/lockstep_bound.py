"""What lockstep itself costs: ``python -m benchmarks.lockstep_bound ENV_ID NUM_ENVS``.

A process a core steps its share of the environments in a bare loop, as the ceiling's processes do, and notes how long
each round takes. A pool in lockstep waits for the slowest of each round: the mean of the rounds' means over the mean of
their maxima is the part of the ceiling that an engine without any overhead would reach.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from threading import BrokenBarrierError
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium.vector.utils import batch_space, iterate

from vecserver.arena.plan import even_shards
from vecserver.cli.measure.subjects import SEED, action_batches
from vecserver.engine.make import EnvMaker

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

_MAKE_S: Final = 120.0
"""Seconds until all processes have made their environments; then those that have give up."""

_start: Barrier | None = None


def _meet_at(start: Barrier) -> None:
    """Give this process the barrier: it can be inherited alone, not sent."""
    global _start  # noqa: PLW0603 - what the executor's initializer hands on
    _start = start


def _rounds(env_id: str, num_envs: int, rows: tuple[int, int], rounds: int) -> Any:
    """Step some rows in so many rounds; NextStep, as a pool does. Returns the rounds' nanoseconds."""
    assert _start is not None
    make = EnvMaker(env_id, {}, None)
    try:
        envs = [make() for _ in range(*rows)]
        for row, env in enumerate(envs, rows[0]):
            env.reset(seed=SEED + row)
    except BaseException:
        _start.abort()  # the others wait for this one
        raise
    space = envs[0].action_space
    batched = batch_space(space, num_envs)
    batches = [list(iterate(batched, batch))[slice(*rows)] for batch in action_batches(space, num_envs)]
    over = [False] * len(envs)
    times = np.zeros(rounds, np.int64)
    _start.wait(_MAKE_S)
    for i in range(rounds):
        began = perf_counter_ns()
        for row, (env, action) in enumerate(zip(envs, batches[i % len(batches)], strict=True)):
            if over[row]:
                env.reset()
                over[row] = False
            else:
                _, _, terminated, truncated, _ = env.step(action)
                over[row] = terminated or truncated
        times[i] = perf_counter_ns() - began
    return times


def bound(env_id: str, num_envs: int, rounds: int) -> float:
    """The part of the ceiling that lockstep leaves.

    Raises:
        Exception: What an environment raised, or BrokenProcessPool where a process ended.
    """
    context = multiprocessing.get_context("spawn")
    shards = even_shards(num_envs, min(len(os.sched_getaffinity(0)), num_envs))
    start = context.Barrier(len(shards))
    # where a process is killed the executor ends the others
    with ProcessPoolExecutor(len(shards), context, _meet_at, (start,)) as processes:
        futures = [processes.submit(_rounds, env_id, num_envs, rows, rounds) for rows in shards]
        raised = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(raised, key=lambda error: isinstance(error, BrokenBarrierError)):  # the cause first
        raise error
    times = np.array([future.result() for future in futures])
    return float(times.mean() / times.max(axis=0).mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lockstep_bound", description=__doc__)
    parser.add_argument("env_id")
    parser.add_argument("num_envs", type=int)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    try:
        part = bound(options.env_id, options.num_envs, options.rounds)
    except Exception as error:  # noqa: BLE001 - whatever an environment raises
        sys.exit(f"error: {options.env_id} could not be measured: {type(error).__name__}: {error}")
    print(f"{options.env_id} × {options.num_envs}: lockstep leaves {part:.2f} of the ceiling")


if __name__ == "__main__":
    main()
