"""Drives a pool through whatever lies between, and compares every batch with an undisturbed oracle."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter

import numpy as np

from tests import leaks
from tests.chaos.faults import Faults, WebSocketSplitter
from tests.chaos.oracle_environment import OracleVectorEnv
from tests.chaos.proxy import FaultProxy
from tests.clients.looped import SHARED, LoopedVectorEnv
from vecserver.wire.errors import DeadlineExceeded, ServerUnreachable
from vecserver_client import ControlClient, LocalServer, factory
from vecserver_client.aio import factory as aio_factory

PATIENCE = 100
_sockets = count()
FIELDS = ("observations", "rewards", "terminations", "truncations", "infos")


class LoopedEnvs(LoopedVectorEnv):
    """The asyncio client at another endpoint, by blocking calls."""

    def __init__(self, url: str, token: str, pool: dict, name: str, endpoint: str) -> None:
        self._runner = asyncio.Runner()
        try:
            self.envs = self._runner.run(self._attach(url, token, pool, name, endpoint))
        except BaseException:
            self._runner.close()
            raise
        for shared in SHARED:
            setattr(self, shared, getattr(self.envs, shared))

    async def _attach(self, url: str, token: str, pool: dict, name: str, endpoint: str):
        made = aio_factory._Made(url, token)
        control = await made.reach_server()
        return await aio_factory._drive(made, control, elsewhere(pool, name, endpoint), name, force=False)

    @property
    def pending_call(self) -> str | None:
        return self.envs.pending_call


def elsewhere(pool: dict, name: str, endpoint: str) -> dict:
    """The pool as if one of its endpoints were another."""
    return {**pool, "endpoints": {**pool["endpoints"], name: endpoint}}


def network(server: LocalServer, pool: dict, transport: str, faults: Faults | None = None, seed: int = 0) -> FaultProxy:
    """A bad network before a pool; over ``ws`` before the server's port, through which everything passes."""
    if transport == "ws":
        return FaultProxy(server.url, faults, seed, splitter=WebSocketSplitter)
    folder = Path(os.environ[leaks.RUNTIME_DIR])
    path = str(folder / f"proxy{next(_sockets)}") if transport == "ipc" else None
    return FaultProxy(pool["endpoints"][transport], faults, seed, path=path)


@contextmanager
def behind(proxy: FaultProxy, server: LocalServer, control: ControlClient, pool: dict, client: str) -> Iterator:
    """Drives a pool through a bad network; gives it back.

    Args:
        proxy: The network.
        server: Whose pool it is.
        control: Its HTTP API.
        pool: As the server describes it.
        client: A transport; with ``asyncio`` before it for the client of event loops.
    """
    *looped, transport = client.split()
    with ExitStack() as stack:
        url, endpoint = server.url, proxy.endpoint
        if transport == "ws":
            url, endpoint = endpoint.replace("tcp://", "http://"), pool["endpoints"]["ws"]
            control = stack.enter_context(ControlClient(url, server.token))
        if looped:
            yield stack.enter_context(closing(LoopedEnvs(url, server.token, pool, transport, endpoint)))
        else:
            yield stack.enter_context(attached(control, pool, transport, endpoint))


@contextmanager
def attached(control: ControlClient, pool: dict, name: str, endpoint: str, **options) -> Iterator:
    """Drives a pool over one transport at another endpoint than its own; gives the pool back."""
    with ExitStack() as undo:
        options = {"copy": True, "dedup": None, **options}
        envs = factory._drive(control, elsewhere(pool, name, endpoint), name, undo, **options)
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

    def heard(begin: Callable, wait: Callable, call: Callable):
        try:
            if wait_s is None:
                return call()
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

    observations, _ = heard(partial(envs.reset_async, seed=seed), envs.reset_wait, partial(envs.reset, seed=seed))
    np.testing.assert_array_equal(observations, oracle.reset(seed=seed)[0])
    for number in range(batches):
        if between is not None:
            between(number)
        batch = actions.integers(0, 5, envs.num_envs)
        began = perf_counter()
        results = heard(partial(envs.step_async, batch), envs.step_wait, partial(envs.step, batch))
        record.times.append(perf_counter() - began)
        for got, wanted, what in zip(results, oracle.step(batch), FIELDS, strict=True):
            if what == "infos":
                continue
            np.testing.assert_array_equal(got, wanted, err_msg=f"{what} of batch {number}")
        record.batches += 1
    return record
