"""Rows of a worker that dies are rebuilt and go on to the bit, where that was asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

import vecserver_client as vs
from tests.clients.surviving import waste
from tests.contract.compare import assert_same, assert_same_batch
from tests.contract.vector_contract import in_every_mode, make_oracle
from tests.pools.processes import wait_for
from tests.replay_environments import replayed
from tests.sampling import of_which
from vecserver.wire.errors import EnvFault, InvalidSpec, WorkerDied
from vecserver_client import LocalVectorEnv

FORMS = ("tcp", "ipc", "shm", "ws", "local")
DRAWN = replayed("Drawn-v0")
ROWS = 6


@pytest.fixture
def make(server) -> Iterator[Callable[..., VectorEnv]]:
    """Makes pools that replay, in every form, closed after the test."""
    with ExitStack() as stack:

        def make_one(form: str, name: str = DRAWN, **options: Any) -> VectorEnv:
            options = {"workers": 3, "on_failure": "replay", "restart_budget": None, **options}
            if form == "local":
                envs: VectorEnv = LocalVectorEnv(name, ROWS, **options)
            else:
                envs = vs.make_vec(name, ROWS, url=server.url, transport=form, **options)
                assert envs.transport == form
            stack.callback(envs.close, terminate=True)
            return envs

        yield make_one


@pytest.fixture
def pids(server) -> Callable[[VectorEnv], list[int]]:
    """The workers of a pool, also in the middle of a step."""

    def of(envs: VectorEnv) -> list[int]:
        if isinstance(envs, LocalVectorEnv):
            return envs._link._host.worker_pids
        with vs.ControlClient(server.url) as control:
            return control.get_pool(envs.pool)["stats"]["worker_pids"]

    return of


@pytest.fixture
def kill(pids) -> Callable[[VectorEnv, int], None]:
    """Kills a worker of a pool, by its number, as if memory had run out."""
    return lambda envs, worker: os.kill(pids(envs)[worker], signal.SIGKILL)


class Twins:
    """A pool beside Gymnasium's vector environment, compared to the bit in everything that is done.

    Args:
        envs: The pool.
        name: Of the environment.
        seed: Of the first reset.
        **kwargs: Of the environment.
    """

    def __init__(self, envs: VectorEnv, name: str = DRAWN, seed: int = 50, **kwargs: Any) -> None:
        self.envs, self.mode = envs, envs.metadata["autoreset_mode"]
        self.oracle = make_oracle(name, ROWS, autoreset_mode=self.mode, **kwargs)
        self.number, self.over = 0, np.zeros(ROWS, np.bool_)
        self.oracle.action_space.seed(seed)
        self.reset(seed=seed)

    def close(self) -> None:
        """Close the oracle."""
        self.oracle.close()

    def reset(self, **given: Any) -> None:
        """Reset both."""
        assert_same(self.envs.reset(**given), self.oracle.reset(**given), f"reset before step {self.number}")

    def step(self, actions: Any = None, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """Step both, and reset what is over by mask where nobody else does."""
        actions = self.oracle.action_space.sample() if actions is None else actions
        self.number += 1
        self.envs.step_async(actions)
        meanwhile()
        batch = self.envs.step_wait()
        expected = self.oracle.step(actions)
        assert_same_batch(batch, expected, f"step {self.number}")
        over = expected[2] | expected[3]
        if self.mode is AutoresetMode.DISABLED and over.any():
            self.reset(options={"reset_mask": over})
        return batch


def survive(twins: Twins, kills: int, kill: Callable[[VectorEnv, int], None]) -> None:
    """Kill workers at random moments of random steps; nothing may show."""
    rng = np.random.default_rng(kills)
    for _ in range(kills):
        for _ in range(int(rng.integers(0, 12))):
            twins.step()
        worker, moment = int(rng.integers(3)), int(rng.integers(3))

        def strike(worker: int = worker, moment: int = moment) -> None:
            if moment == 1:
                waste(rng)
            kill(twins.envs, worker)

        if moment == 0:
            kill(twins.envs, worker)
        twins.step(meanwhile=strike if moment else lambda: None)
        twins.step()
    for _ in range(12):
        twins.step()


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("tcp", "NextStep"),
        ("ipc", "SameStep"),
        ("shm", "Disabled"),
        ("shm", "SameStep"),
        ("shm", "NextStep"),
        ("ws", "Disabled"),
        ("local", "NextStep"),
    ],
)
def test_nobody_hears_of_a_killed_worker(make, kill, form, mode):
    """Observations, rewards, flags and infos are those of an undisturbed run, to the bit."""
    envs = make(form, autoreset_mode=mode)
    with closing(Twins(envs)) as twins:
        survive(twins, 6, kill)
