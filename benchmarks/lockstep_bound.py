"""What lockstep itself costs: ``python -m benchmarks.lockstep_bound ENV_ID NUM_ENVS``.

A process a core steps its share of the environments in a bare loop, as the ceiling's processes do, and notes how long
each round takes. A pool in lockstep waits for the slowest of each round: the mean of the rounds' means over the mean of
their maxima is the part of the ceiling that an engine without any overhead would reach.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space, iterate

from vecserver.arena.plan import even_shards
from vecserver.cli.measure.subjects import SEED, action_batches

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


def _rounds(
    env_id: str, num_envs: int, rows: tuple[int, int], rounds: int, start: Barrier, results: SimpleQueue[Any]
) -> None:
    """Step some rows in so many rounds; NextStep, as a pool does. Puts the rounds' nanoseconds."""
    envs = [gymnasium.make(env_id) for _ in range(*rows)]
    for row, env in enumerate(envs, rows[0]):
        env.reset(seed=SEED + row)
    space = envs[0].action_space
    batched = batch_space(space, num_envs)
    batches = [list(iterate(batched, batch))[slice(*rows)] for batch in action_batches(space, num_envs)]
    over = [False] * len(envs)
    times = np.zeros(rounds, np.int64)
    start.wait()
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
    results.put((rows, times))


def bound(env_id: str, num_envs: int, rounds: int) -> float:
    """The part of the ceiling that lockstep leaves."""
    context = multiprocessing.get_context("spawn")
    shards = even_shards(num_envs, min(len(os.sched_getaffinity(0)), num_envs))
    start, results = context.Barrier(len(shards)), context.SimpleQueue()
    processes = [
        context.Process(target=_rounds, args=(env_id, num_envs, rows, rounds, start, results)) for rows in shards
    ]
    for process in processes:
        process.start()
    times = np.array([results.get()[1] for _ in processes])
    for process in processes:
        process.join()
    return float(times.mean() / times.max(axis=0).mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lockstep_bound", description=__doc__)
    parser.add_argument("env_id")
    parser.add_argument("num_envs", type=int)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    part = bound(options.env_id, options.num_envs, options.rounds)
    print(f"{options.env_id} × {options.num_envs}: lockstep leaves {part:.2f} of the ceiling")


if __name__ == "__main__":
    main()
