"""One process of the ceiling: ``python -m vecserver.cli.measure.bare_loop PARENT_PID ENV_ID NUM_ENVS FIRST END``.

Reads the seconds of a round, a line each, from stdin; answers with the steps it made and the nanoseconds it took. Ends
with stdin.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import ExitStack, suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from gymnasium.vector.utils import batch_space, iterate

from vecserver.cli.measure.subjects import SEED, action_batches
from vecserver.engine.make import EnvMaker
from vecserver.engine.orphans import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterable

    import gymnasium

__all__ = ["main"]


class _BareLoop:
    """Environments, stepped in turn and reset when they are over.

    Args:
        envs: The environments.
        first: Number of the first among all rows of the comparison: its seed and its actions follow from it.
        num_envs: All rows of the comparison.
    """

    def __init__(self, envs: list[gymnasium.Env[Any, Any]], first: int, num_envs: int) -> None:
        space = envs[0].action_space
        rows = slice(first, first + len(envs))
        batched = batch_space(space, num_envs)
        self._actions = [list(iterate(batched, batch))[rows] for batch in action_batches(space, num_envs)]
        self._at = 0
        self._envs = [(env.step, env.reset) for env in envs]
        for row, env in enumerate(envs, first):
            env.reset(seed=SEED + row)

    def run(self, seconds: float) -> tuple[int, int]:
        """Step for so long; returns steps and nanoseconds."""
        envs, actions, at = self._envs, self._actions, self._at
        began = now = perf_counter_ns()
        end = began + seconds * 1e9
        rounds = 0
        while now < end:
            for (step, reset), action in zip(envs, actions[at], strict=True):
                _, _, terminated, truncated, _ = step(action)
                if terminated or truncated:
                    reset()
            rounds += 1
            at = (at + 1) % len(actions)
            now = perf_counter_ns()
        self._at = at
        return rounds * len(envs), now - began


def main(env_id: str, num_envs: int, rows: tuple[int, int], commands: Iterable[str]) -> None:
    """Answer every command on stdout.

    Args:
        env_id: A registered id.
        num_envs: All rows of the comparison.
        rows: First and end row of this process.
        commands: The seconds of a round each.
    """
    # what environments print must not mix with the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers, ExitStack() as undo:
        envs, make = [], EnvMaker(env_id, {}, None)
        for _ in range(*rows):
            envs.append(make())
            undo.callback(envs[-1].close)
        loop = _BareLoop(envs, rows[0], num_envs)
        gc.collect()
        gc.freeze()  # as a pool's workers do
        answers.write("ready\n")
        for seconds in commands:
            steps, nanoseconds = loop.run(float(seconds))
            answers.write(f"{steps} {nanoseconds}\n")


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    _rows, _first, _end = map(int, sys.argv[3:6])
    with suppress(BrokenPipeError):  # Ctrl-C has ended whoever asks, before it knew of this process
        main(sys.argv[2], _rows, (_first, _end), sys.stdin)
