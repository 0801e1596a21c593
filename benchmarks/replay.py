"""What it costs a pool that its rows can be rebuilt: ``python -m benchmarks.replay``.

Two pools of the same environments, one of them with ``on_failure="replay"``, are stepped over shm in turns. The figure
is the median of the ratios of neighbouring turns.

    --env, --rows       the pools, of one worker each; several are measured one after the other
    --turns             pairs of turns
    --seconds           of a turn
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import closing

import vecserver_client as vs

BATCHES = 64


def rate(envs: vs.RemoteVectorEnv, seconds: float) -> float:
    """Batches a second."""
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = [envs.action_space.sample() for _ in range(BATCHES)]
    batches, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        for each in actions:
            envs.step(each)
        batches += BATCHES
    return batches / elapsed


def main() -> None:
    """Run it, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["CartPole-v1"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    with closing(vs.LocalServer()) as server:
        for env in options.env:
            for rows in options.rows:
                ratios, usual = [], []
                with (
                    closing(vs.make_vec(env, rows, url=server.url, transport="shm", workers=1)) as plain,
                    closing(
                        vs.make_vec(env, rows, url=server.url, transport="shm", workers=1, on_failure="replay")
                    ) as kept,
                ):
                    for turn in range(options.turns):
                        first, second = (plain, kept) if turn % 2 else (kept, plain)
                        found = {id(envs): rate(envs, options.seconds) for envs in (first, second)}
                        ratios.append(found[id(kept)] / found[id(plain)])
                        usual.append(found[id(plain)])
                batch_us = 1e6 / statistics.median(usual)
                print(f"{env}, {rows} rows: {statistics.median(ratios):.3f} of {batch_us:.1f} µs a batch without")


if __name__ == "__main__":
    main()
