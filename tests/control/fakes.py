"""A registry without processes: each pool is a ``SyncVectorEnv`` in this one, so the answers are real."""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace

import gymnasium
import httpx
import numpy as np
import uvicorn
from gymnasium.vector import AutoresetMode

from vecserver.control.app import create_app
from vecserver.pools.access import Access
from vecserver.pools.keys import Keys
from vecserver.pools.results import Batch, Grant, PoolView
from vecserver.pools.rules import TRUSTING
from vecserver.pools.spec import Caps, PoolSpec, check_pool_name
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import EpochMismatch, InvalidSpec, LeaseHeld, PoolLost, PoolStopping, UnknownPool
from vecserver.wire.figures import EpisodeFigures, Histogram
from vecserver.wire.layout import Layout
from vecserver.wire.messages import PoolInfo, Stats
from vecserver.wire.session import ResumePoint
from vecserver.wire.spaces import space_to_json

EPOCH = 2**64 - 1


class _Pool:
    def __init__(self, pool: str, spec: PoolSpec, durable: bool) -> None:
        self.envs = gymnasium.make_vec(
            spec.env_id,
            spec.num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode[_MODES[spec.autoreset_mode]]},
            **spec.env_kwargs,
        )
        self.format = ActionFormat(self.envs.single_action_space, spec.num_envs)
        self.batches = self.resets = 0
        self.figures = EpisodeFigures(4, 1, 10.0, 2.5, 30, [(1.5, 2.0, 7), (0.5, None, 8)])
        self.pool, self.spec, self.durable = pool, spec, durable
        self.keys, self.driver = Keys(), ""

    def check(self, epoch: int | None) -> None:
        if epoch not in {None, EPOCH}:
            raise EpochMismatch("it was made again")

    def view(self) -> PoolView:
        spec, layout = self.spec, Layout.of(self.envs.single_observation_space, self.spec.num_envs)
        info = PoolInfo(
            pool=self.pool,
            env_id=spec.env_id,
            num_envs=spec.num_envs,
            autoreset_mode=spec.autoreset_mode,
            observation_space=space_to_json(self.envs.single_observation_space),
            action_space=space_to_json(self.envs.single_action_space),
            layout=layout.describe(),
            layout_hash=layout.hash,
            metadata={"render_fps": 50},
            render_mode=spec.render_mode,
            engine="sync",
            workers=1,
            step_timeout=spec.step_timeout,
            lease_ttl=spec.lease_ttl,
            max_request=1 << 20,
        )
        stats = Stats(
            state="ready",
            reason="",
            batches=self.batches,
            env_steps=self.batches * spec.num_envs,
            episodes=0,
            resets=self.resets,
            refused=0,
            lease=0,
            driver="",
            idle_s=0.5,
            arena_bytes=4096,
            worker_pids=[2],
            rss_bytes=[1000],
            host_rss_bytes=2000,
            worker_rows=[(0, spec.num_envs)],
            worker_batches=[self.batches],
            worker_busy_s=[0.25],
            worker_last=[self.batches],
            batch_seconds=Histogram([0.01, 0.1], [2, 1, 1], 0.75),
            episode_figures=self.figures,
            requests={"STEP": self.batches},
            refusals={"lease_held": 2},
            restarts={"killed": 1},
        )
        return PoolView(
            pool=self.pool,
            spec=spec,
            state="ready",
            reason="",
            endpoints={"tcp": "tcp://127.0.0.1:5555", "ipc": f"ipc:///tmp/{self.pool}"},
            epoch=EPOCH,
            arena_bytes=4096,
            created=0.0,
            creation_s=0.25,
            host_pid=1,
            info=info,
            stats=stats,
            durable=self.durable,
        )


_MODES = {"NextStep": "NEXT_STEP", "SameStep": "SAME_STEP", "Disabled": "DISABLED"}


class FakeRegistry:
    """The registry's interface, with doors for tests.

    Attributes:
        fault: Raised by every method from now on, if set.
        gate: Every method waits until it is set.
        entered: Released once by each call that reached the gate.
        hidden: The states of pools whose host does not answer: ``silent`` or ``lost``.
    """

    def __init__(self, caps: Caps | None = None) -> None:
        self.caps = caps or Caps()
        self.rules = TRUSTING
        self.closing = self.insecure = False
        self.restoring: list[str] = []
        self.fault: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.hidden: dict[str, str] = {}
        self._pools: dict[str, _Pool] = {}
        self._ids = itertools.count()

    def create(self, spec: PoolSpec, name: str | None = None, *, durable: bool = False) -> PoolView:
        self._enter()
        if self.closing:
            raise PoolStopping("the server is shutting down")
        spec.check(self.caps)
        if name is not None:
            check_pool_name(name)
        pool = _Pool(name or f"p-{next(self._ids)}", spec, durable)
        self._pools[pool.pool] = pool
        return pool.view()

    def get(self, pool: str) -> PoolView:
        view = self._find(pool).view()
        if pool not in self.hidden:
            return view
        return replace(view, stats=None, state=self.hidden[pool], reason="it went wrong")

    def list(self) -> list[PoolView]:
        self._enter()
        return [self.get(pool) for pool in self._pools]

    def reset(self, pool, *, seed=None, mask=None, options=None, epoch=None) -> Batch:
        found = self._find(pool)
        found.check(epoch)
        found.resets += 1
        if mask is not None:
            options = {**(options or {}), "reset_mask": np.array(mask)}
        return Batch(*self._parts(found.envs.reset(seed=seed, options=options)))

    @staticmethod
    def _parts(result):
        observations, infos = result
        return observations, None, None, None, infos

    def run_once(self, pool, key, digest, run, epoch=None):
        return self._find(pool).keys.run_once(key, digest, run, 10.0)

    def access(self, pool, key=None) -> Access:
        self._find(pool)
        return Access(ticket="a ticket") if key is None else Access(server_key="k" * 40)

    def take_lease(self, pool, driver, *, force=False) -> Grant:
        found = self._find(pool)
        before, found.driver = found.driver, driver
        if before and not force:
            found.driver = before
            raise LeaseHeld(f"{before} drives this pool", driver=before)
        return Grant(pool, driver, before, ResumePoint(7, 2**64 - 1, 0, pending=False))

    def step(self, pool, actions, *, epoch=None) -> Batch:
        found = self._find(pool)
        found.check(epoch)
        arrays = found.format.coerce(actions)
        found.format.check(arrays)
        found.batches += 1
        return Batch(*found.envs.step(arrays[0]))

    def address(self, pool):
        if pool not in self._pools:
            raise UnknownPool(f"no pool {pool!r}", pool=pool)
        if self.hidden.get(pool) == "lost":
            raise PoolLost(f"pool {pool} is lost")

    def render(self, pool, row):
        found = self._find(pool)
        if found.spec.render_mode is None:
            raise InvalidSpec("made without a render mode", field="render_mode")
        return np.full((400, 600, 3), row, np.uint8)

    def delete(self, pool: str, *, force: bool = False) -> None:
        self._find(pool).envs.close()
        del self._pools[pool]

    def close(self, grace: float | None = None) -> None:
        self.closing = True
        for pool in list(self._pools):
            self.delete(pool)

    def _find(self, pool: str) -> _Pool:
        self._enter()
        if pool not in self._pools:
            raise UnknownPool(f"no pool {pool!r}", pool=pool)
        return self._pools[pool]

    def _enter(self) -> None:
        self.entered.release()
        assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault


@contextmanager
def served(registry: FakeRegistry):
    """The address of the app around a registry, behind real sockets."""
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()  # the first request may be faster than the thread
    server = uvicorn.Server(
        uvicorn.Config(create_app(registry), log_config=None, lifespan="off", loop="asyncio", http="h11")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    # the first request starts the thread that later ones use as well, so that no test is blamed for it
    httpx.get(f"{url}/v1/envs", headers={"Connection": "close"}).raise_for_status()
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()
        registry.close()
