"""Drives a pool through whatever lies between, and compares every batch with an undisturbed oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from tests.chaos.oracle_environment import OracleVectorEnv
from vecserver.wire.errors import DeadlineExceeded, ServerUnreachable
from vecserver_client import ControlClient, factory

PATIENCE = 100


@contextmanager
def attached(control: ControlClient, pool: dict, name: str, endpoint: str, **options) -> Iterator:
    """Drives a pool over one transport at another endpoint than its own; gives the pool back."""
    with ExitStack() as undo:
        options = {"copy": True, "dedup": None, **options}
        elsewhere = {**pool, "endpoints": {**pool["endpoints"], name: endpoint}}
        envs = factory._drive(control, elsewhere, name, undo, **options)
        try:
            yield envs
        finally:
            envs.close(terminate=True)


@dataclass
class Record:
    """What a drive saw.

    Attributes:
        late: Waits that came to an end without an answer, and were gone on with.
        times: Seconds of each batch.
    """

    batches: int = 0
    late: int = 0
    times: list[float] = field(default_factory=list)


def drive(
    envs, batches: int, *, seed: int = 0, wait_s: float | None = None, between: Callable[[int], None] | None = None
) -> Record:
    """Resets and steps, and fails at the first batch that is not the oracle's, bit for bit.

    Args:
        envs: What is driven, with the rows of an ``Oracle-v0``.
        batches: So many.
        seed: Of the rows, and of the actions.
        wait_s: Seconds for one wait; one that ends without an answer is gone on with.
        between: Called before each batch, with its number.
    """
    record = Record()
    padding = envs.single_observation_space.shape[0] - 4
    oracle = OracleVectorEnv(envs.num_envs, padding)
    actions = np.random.default_rng(seed)

    def waited(begin, wait):
        try:
            begin()
        except (DeadlineExceeded, ServerUnreachable):
            record.late += 1
            if envs.pending_call is None:
                raise
        for _ in range(PATIENCE):
            try:
                return wait(timeout=wait_s)
            except (DeadlineExceeded, ServerUnreachable):
                record.late += 1
                assert envs.pending_call is not None, "what was not answered must stay pending"
        raise AssertionError("no answer comes")

    observations, _ = waited(lambda: envs.reset_async(seed=seed), envs.reset_wait)
    np.testing.assert_array_equal(observations, oracle.reset(seed=seed)[0])
    for number in range(batches):
        if between is not None:
            between(number)
        batch = actions.integers(0, 5, envs.num_envs)
        began = perf_counter()
        heard = waited(lambda batch=batch: envs.step_async(batch), envs.step_wait)
        record.times.append(perf_counter() - began)
        for got, wanted, what in zip(
            heard, oracle.step(batch)[:4], ("observations", "rewards", "ends", "cuts"), strict=False
        ):
            np.testing.assert_array_equal(got, wanted, err_msg=f"{what} of batch {number}")
        record.batches += 1
    return record
