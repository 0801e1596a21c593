"""What a transport adds to a batch of large observations: ``python -m benchmarks.large_observations``.

Every subject steps a pool of the same environments, in turn, a stretch each, so that all of them see the same machine.
The engine's own time is that of ``LocalVectorEnv(copy=False)``: workers step and write, and nobody copies anything.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from time import perf_counter
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

import vecserver_client as vs

STACK = "benchmarks.large_observations:bench/Stack-v0"
PONG = "ALE/Pong-v5"
PONG_OPTIONS: dict[str, Any] = {
    "frameskip": 1,
    "wrappers": [
        {"id": "AtariPreprocessing", "kwargs": {"noop_max": 30}},
        {"id": "FrameStackObservation", "kwargs": {"stack_size": 4}},
    ],
}
OWN = "engine alone"
SUBJECTS: dict[str, dict[str, Any]] = {
    "shm": {"transport": "shm"},
    "shm, copy=False": {"transport": "shm", "copy": False},
    "ipc": {"transport": "ipc"},
    "ipc, copy=False": {"transport": "ipc", "copy": False},
    "tcp": {"transport": "tcp"},
    "tcp, copy=False": {"transport": "tcp", "copy": False},
    "tcp, dedup": {"transport": "tcp", "dedup": "frames"},
}


class StackEnv(gym.Env[Any, Any]):
    """A stack of frames as large as Atari's that moves on by one each step, and costs next to nothing."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, *, length: int = 1000) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = gym.spaces.Discrete(6)
        self._stack = np.zeros((4, 84, 84), np.uint8)
        self._length = length
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        del options
        super().reset(seed=seed)
        self._stack[...] = 0
        self._steps = 0
        return self._stack, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = (self._steps + action) % 251
        return self._stack, 1.0, self._steps % self._length == 0, False, {}


if "bench/Stack-v0" not in gym.registry:
    gym.register("bench/Stack-v0", "benchmarks.large_observations:StackEnv", disable_env_checker=True)


def opened(stack: ExitStack, env_id: str, num_envs: int, only: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """The vector environments to compare, reset; the first is the engine alone."""
    server = vs.LocalServer()
    stack.callback(server.close)
    made: dict[str, Any] = {OWN: vs.LocalVectorEnv(env_id, num_envs, copy=False, **options)}
    stack.callback(made[OWN].close)
    for name in only or SUBJECTS:
        made[name] = vs.make_vec(env_id, num_envs, url=server.url, **SUBJECTS[name], **options)
        stack.callback(made[name].close)
    for envs in made.values():
        envs.reset(seed=1)
    return made


def stretch(envs: Any, batches: int) -> list[float]:
    """Seconds of each of some batches."""
    actions = np.zeros(envs.num_envs, np.int64)
    times = []
    for _ in range(batches):
        begin = perf_counter()
        envs.step(actions)
        times.append(perf_counter() - begin)
    return times


def measure(env_id: str, num_envs: int, rounds: int, batches: int, only: list[str], options: dict[str, Any]) -> None:
    """Print a line a subject: milliseconds of a batch, and the median over the rounds of what it adds."""
    with ExitStack() as stack:
        made = opened(stack, env_id, num_envs, only, options)
        times: dict[str, list[float]] = {name: [] for name in made}
        added: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(rounds + 1):
            took = {name: stretch(envs, batches) for name, envs in made.items()}
            if turn:  # the first is the warm-up
                for name in made:
                    times[name] += took[name]
                    added[name].append(statistics.median(took[name]) - statistics.median(took[OWN]))
    print(f"{env_id} x {num_envs}, {rounds} rounds of {batches} batches, in ms")
    for name, each in times.items():
        tenths = statistics.quantiles(each, n=10)
        print(
            f"  {name:16} median {1e3 * statistics.median(each):7.3f}   p10 {1e3 * tenths[0]:7.3f}"
            f"   p90 {1e3 * tenths[-1]:7.3f}   adds {1e3 * statistics.median(added[name]):7.3f}"
        )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_observations", description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--batches", type=int, default=100, help="in a stretch")
    parser.add_argument(
        "--pong", action="store_true", help="Atari's Pong in place of an environment that costs nothing"
    )
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, default=[], help="subjects; all, if not given")
    given = parser.parse_args()
    env_id, options = (PONG, PONG_OPTIONS) if given.pong else (STACK, {})
    measure(env_id, given.rows, given.rounds, given.batches, given.only, options)


if __name__ == "__main__":
    main()
