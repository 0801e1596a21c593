"""What a pool must show while its workers are killed: the rows of others to the bit, and its own begun anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import monotonic
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from tests.contract.compare import assert_same
from tests.contract.vector_contract import make_oracle
from tests.environments import env_id
from vecserver.wire.infos import split

COUNT = env_id("Count-v0")
SOON_S = 20.0
"""No batch takes as long: a worker is replaced in a second, and the machine may be busy."""


def actions_of(envs: VectorEnv, number: int) -> np.ndarray:
    """Other actions for every row and every number."""
    return (np.arange(envs.num_envs) * 2 + number) % 5


class Rows:
    """Every row beside an environment of its own, to the bit; one that was lost goes on with a new one.

    Args:
        envs: A pool of ``Count-v0``, reset.
        seed: Of its reset.
        reset: What that returned.

    Attributes:
        lost: How often each row came back as lost.
    """

    def __init__(self, envs: VectorEnv, seed: int, reset: tuple[Any, dict[str, Any]]) -> None:
        self._envs = envs
        self._mode = envs.metadata["autoreset_mode"]
        self._seeds = [seed + row for row in range(envs.num_envs)]
        self._oracles = [make_oracle(COUNT, 1, autoreset_mode=self._mode) for _ in range(envs.num_envs)]
        self._over = [False] * envs.num_envs
        self._begins = [False] * envs.num_envs
        self._first_seeds, self._deaths = [*self._seeds], [0] * envs.num_envs
        self.lost = [0] * envs.num_envs
        self._dying: set[int] = set()
        self.last, infos = reset
        for row, oracle in enumerate(self._oracles):
            observation, info = oracle.reset(seed=self._seeds[row])
            self._compare(row, self.last[row], split(infos, envs.num_envs)[row], observation, info)

    @property
    def dying(self) -> set[int]:
        """Rows whose worker was killed, until that shows; assigned once a death."""
        return self._dying

    @dying.setter
    def dying(self, rows: set[int]) -> None:
        self._dying = rows
        for row in rows:
            self._deaths[row] += 1

    def close(self) -> None:
        """Close the oracles."""
        for oracle in self._oracles:
            oracle.close()

    def _compare(self, row: int, observation: Any, info: dict[str, Any], expected: Any, expected_info: Any) -> None:
        assert_same(observation, expected[0], f"observation of row {row}")
        assert_same(info, split(expected_info, 1)[0], f"info of row {row}")

    def step(self, actions: np.ndarray, wait: Callable[[], Any] | None = None) -> list[int]:
        """Steps, compares, and resets by mask where nobody else does; returns the rows that came back as lost."""
        observations, rewards, terminated, truncated, infos = self._envs.step(actions) if wait is None else wait()
        failed = []
        for row, info in enumerate(split(infos, self._envs.num_envs)):
            if "env_failure" in info:
                self._check_lost(row, observations[row], (rewards[row], terminated[row], truncated[row]), info)
                failed.append(row)
            elif self._begins[row] or (row in self.dying and self._over[row] and self._is_anew(row, observations[row])):
                assert (rewards[row], terminated[row], truncated[row]) == (0.0, False, False)
                self._begin(row, observations[row], info)
                self._over[row] = False
            else:
                self._check(row, actions, observations[row], (rewards[row], terminated[row], truncated[row]), info)
        self.last = observations
        if self._mode is AutoresetMode.DISABLED and (over := np.array(self._over)).any():
            self._reset(over)
        return failed

    def _check(self, row: int, actions: np.ndarray, observation: Any, outcome: Any, info: dict[str, Any]) -> None:
        expected = self._oracles[row].step(actions[row : row + 1])
        assert_same(outcome, tuple(part[0] for part in expected[1:4]), f"outcome of row {row}")
        self._compare(row, observation, info, expected[0], expected[4])
        self._over[row] = bool(outcome[1] or outcome[2])

    def _check_lost(self, row: int, observation: Any, outcome: Any, info: dict[str, Any]) -> None:
        assert outcome == (0.0, False, True)
        assert row in self.dying
        self.dying.remove(row)
        self.lost[row] += 1
        self._over[row] = True
        last = observation
        if self._mode is AutoresetMode.SAME_STEP:
            last = info.pop("final_obs")
            cause = info.pop("env_failure")
            assert info.pop("final_info") == {"env_failure": cause}
            self._begin(row, observation, info)
        else:
            assert info.keys() == {"env_failure"}
        assert_same(last, self.last[row], f"last observation of row {row}")
        self._begins[row] = self._mode is AutoresetMode.NEXT_STEP

    def _is_anew(self, row: int, observation: Any) -> bool:
        return int(observation[0]) != self._seeds[row]

    def _seed_after(self, row: int, deaths: int) -> int:
        return int(np.random.SeedSequence(self._first_seeds[row], spawn_key=(deaths,)).generate_state(1)[0]) >> 1

    def _begin(self, row: int, observation: Any, info: dict[str, Any]) -> None:
        """A row in a new environment: seeded, and not as any row before it."""
        seed = int(observation[0])
        if not (self._begins[row] and seed == self._seed_after(row, self._deaths[row] - 1)):
            self._dying.discard(row)  # else its worker had made the reset that was due before it was killed again
        self._begins[row] = False
        assert seed not in self._seeds
        self._seeds[row] = seed
        self._compare(row, observation, info, *self._oracles[row].reset(seed=seed))

    def _reset(self, over: np.ndarray) -> None:
        observations, infos = self._envs.reset(options={"reset_mask": over.copy()})
        each = split(infos, self._envs.num_envs)
        for row in np.flatnonzero(over):
            if self._is_anew(row, observations[row]):
                self._begin(row, observations[row], each[row])
            else:
                mask = {"reset_mask": np.array([True])}
                self._compare(row, observations[row], each[row], *self._oracles[row].reset(options=mask))
            self._over[row] = False
        assert_same(observations[~over], self.last[~over], "rows outside the mask")
        self.last = observations


def waste(rng: np.random.Generator) -> None:
    """Lets a random time go by, of the order of a step."""
    for _ in range(int(rng.integers(0, 20_000))):
        pass


def survive(envs: VectorEnv, kills: int, kill: Callable[..., int]) -> list[float]:
    """Kills workers at random moments of random steps; returns what the steps took that had to wait for another.

    Whatever is not as it must be fails.
    """
    rng = np.random.default_rng(kills)
    times = []
    with closing(Rows(envs, 50, envs.reset(seed=50))) as rows:
        number = 0
        for _ in range(kills):
            for _ in range(int(rng.integers(0, 12))):
                number += 1
                assert rows.step(actions_of(envs, number)) == []
            worker, moment = int(rng.integers(3)), int(rng.integers(3))
            mine = {2 * worker, 2 * worker + 1}
            rows.dying = set(mine)
            if moment == 0:  # between two steps
                kill(envs, worker)
            number += 1
            began = monotonic()
            envs.step_async(actions_of(envs, number))
            if moment == 1:
                waste(rng)
            if moment:
                kill(envs, worker)
            rows.step(actions_of(envs, number), envs.step_wait)
            while rows.dying:
                assert monotonic() - began < SOON_S
                number += 1
                rows.step(actions_of(envs, number))
            times.append(monotonic() - began)
        assert sum(rows.lost) > 0
        for _ in range(12):
            number += 1
            assert rows.step(actions_of(envs, number)) == []
    return times
