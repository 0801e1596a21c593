"""Workers that are copies of their host: nothing of it is left in them but memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.pools.odd_environments import odd
from tests.pools.processes import Watched, descendants, wait_for
from vecserver.pools.spec import PoolSpec


def drawing(tmp_path: Path) -> PoolSpec:
    return PoolSpec(env_id=odd("Drawing-v0"), num_envs=2, workers=2, env_kwargs={"ended": str(tmp_path / "ended")})


def test_a_worker_holds_its_own_descriptors_alone(pool):
    """Of its host's there are the arena's and the finish line's; not the socket to the server, nor another worker's."""
    view = pool(PoolSpec(env_id="CartPole-v1", num_envs=2, workers=2))
    for pid in view.stats.worker_pids:
        held = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        kinds = sorted(
            target.split(":")[0].removeprefix("/") for target in held if not target.endswith((".log", "null"))
        )
        assert kinds == ["anon_inode"] * 3 + ["memfd"] * 2 + ["socket"]


def test_workers_draw_numbers_of_their_own(registry, pool, tmp_path):
    """An environment that uses the generators of a module finds them seeded anew in every worker."""
    view = pool(drawing(tmp_path))
    first, second = registry.reset(view.pool, seed=0).observations
    assert not np.isclose(first, second).any()


def test_what_is_to_run_at_a_workers_exit_runs(registry, tmp_path):
    """As at the end of any interpreter."""
    view = registry.create(drawing(tmp_path))
    registry.delete(view.pool)
    assert (tmp_path / "ended").exists()


def test_the_processes_of_environments_end_with_their_worker(registry):
    """Those that multiprocessing ends at the exit of a process: daemons, and what an executor started."""
    view = registry.create(PoolSpec(env_id=odd("Parent-v0"), num_envs=1))
    children = descendants(view.stats.worker_pids[0])
    assert len(children) == 2
    with Watched(*children) as watched:
        registry.delete(view.pool)
        assert not watched.running()


def test_a_worker_heeds_signals_as_any_process(registry, pool):
    """SIGTERM is not taken for a word to its host."""
    view = pool(PoolSpec(env_id="CartPole-v1", num_envs=1))
    os.kill(view.stats.worker_pids[0], signal.SIGTERM)
    wait_for(lambda: registry.get(view.pool).stats.restarts == {"killed": 1})


@pytest.mark.parametrize("ends_by", ["delete", "kill"])
def test_the_programs_of_environments_end_with_their_worker(registry, tmp_path, ends_by):
    """In whatever session they are, and though nobody closed the environment."""
    pids = tmp_path / "pids"
    view = registry.create(PoolSpec(env_id=odd("Starting-v0"), num_envs=2, workers=2, env_kwargs={"pids": str(pids)}))
    with Watched(*map(int, pids.read_text().split())) as watched:
        if ends_by == "kill":
            os.kill(view.stats.worker_pids[0], signal.SIGKILL)
            wait_for(lambda: len(watched.running(0)) == 1)
        registry.delete(view.pool)
        assert not watched.running()
