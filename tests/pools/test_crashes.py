"""Processes that are killed, stopped or stuck: who is told what, and that nothing is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.environments import env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import Watched, descendants, processor_time, wait_for
from tests.pools.registries import HOST_COMMAND, runtime_dir
from vecserver.pools.spec import PoolSpec
from vecserver.wire.errors import HostStartFailed, PoolBroken, PoolLost, PoolStopping, WorkerDied

COUNT = env_id("Count-v0")
LONG_S = 30.0


def socket_of(view) -> Path:
    return Path(view.endpoints["ipc"].removeprefix("ipc://"))


def test_a_worker_that_no_other_may_replace_is_named(registry, pool):
    """The step in flight ends with shard, rows and signal; afterwards the pool is broken and says why, until its reset."""
    view = pool(
        PoolSpec(env_id=env_id("Kill-v0"), num_envs=4, workers=2, restart_budget=0, env_kwargs={"at": 2, "seed": 13})
    )
    registry.reset(view.pool, seed=10)
    registry.step(view.pool, [0, 0, 0, 0])
    with pytest.raises(WorkerDied, match=r"worker 1 \(rows 2 to 3, pid \d+\) was killed by SIGKILL") as caught:
        registry.step(view.pool, [0, 0, 0, 0])
    assert caught.value.details == {"shard": 1, "rows": [2, 3], "exitcode": -9}
    broken = registry.get(view.pool)
    assert broken.state == broken.stats.state == "broken"
    assert broken.reason == caught.value.message
    with pytest.raises(PoolBroken, match="worker 1.*SIGKILL"):
        registry.step(view.pool, [0, 0, 0, 0])
    assert registry.reset(view.pool, seed=20).observations[:, 0].tolist() == [20, 21, 22, 23]
    assert registry.step(view.pool, [0, 0, 0, 0]).observations[:, 2].tolist() == [1] * 4
    assert registry.get(view.pool).state == "ready"


@pytest.mark.parametrize(
    ("number", "text"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV"), (40, "signal 40")]
)
def test_a_worker_that_dies_between_steps_is_noticed(registry, number, text):
    """Where no other may take its place the pool is broken at once, and its other processes go with it."""
    view = registry.create(PoolSpec(env_id=COUNT, num_envs=4, workers=2, restart_budget=0))
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        processes.signal(view.stats.worker_pids[1], number)
        wait_for(lambda: registry.get(view.pool).state == "broken")
        assert text in registry.get(view.pool).reason
        assert processes.running(0) == [view.host_pid, view.stats.worker_pids[0]]
        registry.delete(view.pool)
        assert not processes.running(0)
    assert not socket_of(view).exists()


def test_a_broken_pool_is_idle(registry, pool, tmp_path):
    """Workers that finish after another one died leave no ring that keeps the host awake."""
    gate, began = tmp_path / "gate", tmp_path / "began"
    held = {"gate": str(gate), "began": str(began), "seed": 2}
    view = pool(PoolSpec(env_id=odd("Held-v0"), num_envs=2, workers=2, restart_budget=0, env_kwargs=held))
    registry.reset(view.pool, seed=1)
    first, _ = view.stats.worker_pids
    with Watched(view.host_pid, first) as processes, ThreadPoolExecutor(1) as thread:
        step = thread.submit(registry.step, view.pool, [0, 0])
        wait_for(began.exists)
        processes.signal(first, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            step.result(LONG_S)
        used = processor_time(view.host_pid)
        gate.touch()
        assert processes.running(0.5) == [view.host_pid]
        assert processor_time(view.host_pid) - used < 0.25


@pytest.mark.parametrize("engine", ["envs", "async"])
def test_a_host_that_is_killed_takes_its_workers_with_it(registry, engine):
    """The pool is lost, says how its host ended, and can be deleted; none of its processes is left."""
    view = registry.create(PoolSpec(env_id=COUNT, num_envs=2, engine=engine))
    with Watched(*descendants(view.host_pid)) as workers, Watched(view.host_pid) as host:
        host.signal(view.host_pid, signal.SIGKILL)
        assert not workers.running()
    for call in (lambda: registry.step(view.pool, [0, 0]), lambda: registry.reset(view.pool)):
        with pytest.raises(PoolLost, match="killed by SIGKILL") as caught:
            call()
    assert caught.value.details == {"pool": view.pool, "host_pid": view.host_pid, "exitcode": -9}
    lost = registry.get(view.pool)
    assert (lost.state, lost.stats, lost.exitcode) == ("lost", None, -9)
    assert "SIGKILL" in lost.reason
    registry.delete(view.pool)
    assert not socket_of(view).exists()


def test_a_host_that_is_killed_in_a_step_does_not_leave_its_caller_waiting(registry, tmp_path):
    """The caller learns long before its deadline that the pool is lost."""
    stepping = tmp_path / "began"
    held = {"gate": str(tmp_path / "never"), "began": str(stepping)}
    view = registry.create(PoolSpec(env_id=odd("Held-v0"), num_envs=1, step_timeout=LONG_S, env_kwargs=held))
    registry.reset(view.pool, seed=1)
    with Watched(view.host_pid) as host, ThreadPoolExecutor(1) as thread:
        step = thread.submit(registry.step, view.pool, [0])
        wait_for(stepping.exists)
        began = time.monotonic()
        host.signal(view.host_pid, signal.SIGKILL)
        with pytest.raises(PoolLost, match="SIGKILL"):
            step.result(LONG_S)
        assert time.monotonic() - began < LONG_S / 3
    registry.delete(view.pool)


def test_a_host_that_is_asked_to_end_leaves_in_order(registry):
    """SIGTERM ends a host and its workers; its server says that it has left."""
    view = registry.create(PoolSpec(env_id=COUNT, num_envs=2, workers=2))
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        processes.signal(view.host_pid, signal.SIGTERM)
        assert not processes.running()
    with pytest.raises(PoolLost, match="left with exit code 0"):
        registry.step(view.pool, [0, 0])
    registry.delete(view.pool)


def test_a_terminals_interrupt_leaves_pools_alone(registry, pool):
    """Ctrl-C reaches every process of a terminal; only the server decides about its pools."""
    view = pool(PoolSpec(env_id=COUNT, num_envs=2, workers=1))
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        for pid in (view.host_pid, *view.stats.worker_pids):
            processes.signal(pid, signal.SIGINT)
        registry.reset(view.pool, seed=1)
        assert len(processes.running(0)) == 2
        registry.delete(view.pool)


def test_a_host_that_is_killed_while_it_starts_fails_the_creation(make_registry, tmp_path):
    """Whoever waits for the pool is told how its host ended, and its workers are gone."""
    registry, began = make_registry(grace=0.1), tmp_path / "began"
    spec = PoolSpec(env_id=odd("Stuck-v0"), num_envs=1, env_kwargs={"began": str(began)})
    others = set(descendants(os.getpid()))
    with ThreadPoolExecutor(1) as thread:
        creation = thread.submit(registry.create, spec)
        wait_for(began.exists)
        family = [pid for pid in descendants(os.getpid()) if pid not in others]
        with Watched(*family) as processes:
            for pid in family:
                if "vecserver.dataplane" in Path(f"/proc/{pid}/cmdline").read_text():
                    processes.signal(pid, signal.SIGKILL)
            with pytest.raises(HostStartFailed, match="killed by SIGKILL"):
                creation.result(LONG_S)
            assert not processes.running()


def test_a_server_that_gives_up_kills_its_pools_at_once(make_registry):
    """``kill`` waits for nothing; ``close`` then finds everything gone and clears away what is left."""
    registry = make_registry()
    view = registry.create(PoolSpec(env_id=env_id("Hang-v0"), num_envs=2, workers=2))
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        registry.kill()
        assert not processes.running()
    assert registry.closing
    registry.close()
    assert not socket_of(view).exists()


def test_a_host_whose_server_is_gone_leaves_at_once():
    """A server may die between the start of a host and its first word."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        command = [*HOST_COMMAND, str(theirs.fileno())]
        result = subprocess.run(command, check=False, capture_output=True, pass_fds=(theirs.fileno(),), timeout=LONG_S)
    assert (result.returncode, result.stderr) == (1, b"")


SERVER = """
import json, sys, threading
from pathlib import Path
from vecserver.pools.registry import Registry
from vecserver.pools.spec import PoolSpec
command, directory, *specs = json.loads(sys.argv[1])
registry = Registry(host_command=command, runtime_dir=Path(directory), grace=0.2)
views = [registry.create(PoolSpec(**spec)) for spec in specs]
print(json.dumps([view.endpoints["ipc"] for view in views]), flush=True)
threading.Event().wait()
"""


def test_a_server_that_is_killed_leaves_nothing():
    """Hosts, workers and the processes of rows are gone, and so are sockets, logs and their folder."""
    specs = [{"env_id": COUNT, "num_envs": 3, "engine": engine} for engine in ("envs", "async")]
    specs.append({"env_id": odd("Stubborn-v0"), "num_envs": 1})
    with runtime_dir() as folder:
        own = folder / "own"
        own.mkdir()
        argument = json.dumps([HOST_COMMAND, str(own), *specs])
        server = subprocess.Popen([sys.executable, "-c", SERVER, argument], stdout=subprocess.PIPE)
        with server:
            sockets = [Path(each.removeprefix("ipc://")) for each in json.loads(server.stdout.readline())]
            assert all(each.exists() for each in sockets)
            family = descendants(server.pid)
            assert len(family) >= 3 + 3 + 3
            with Watched(*family) as processes:
                server.kill()
                assert not processes.running()
        assert not own.exists()


def test_a_host_that_drains_is_idle(make_registry, tmp_path):
    """While the last batch gets its grace the host waits; it does not spin."""
    registry = make_registry(grace=0.6)
    began = tmp_path / "began"
    held = {"gate": str(tmp_path / "never"), "began": str(began)}
    view = registry.create(PoolSpec(env_id=odd("Held-v0"), num_envs=1, env_kwargs=held))
    registry.reset(view.pool, seed=1)
    with Watched(view.host_pid) as processes, ThreadPoolExecutor(2) as thread:
        step = thread.submit(registry.step, view.pool, [0])
        wait_for(began.exists)
        used = [processor_time(view.host_pid)]
        deletion = thread.submit(registry.delete, view.pool)
        while processes.running(0.02):
            used.append(processor_time(view.host_pid))
        deletion.result(LONG_S)
        with pytest.raises((PoolLost, PoolStopping)):
            step.result(LONG_S)
    assert used[-1] - used[0] < 0.3


def test_a_pool_that_hangs_can_be_deleted(make_registry, tmp_path):
    """While a step is under way that never ends ``delete`` returns within the grace; nothing is left."""
    registry, stepping = make_registry(grace=0.2), tmp_path / "began"
    held = {"gate": str(tmp_path / "never"), "began": str(stepping), "seed": 2}
    view = registry.create(PoolSpec(env_id=odd("Held-v0"), num_envs=2, workers=2, env_kwargs=held))
    registry.reset(view.pool, seed=1)
    with Watched(view.host_pid, *view.stats.worker_pids) as processes, ThreadPoolExecutor(1) as thread:
        step = thread.submit(registry.step, view.pool, [0, 0])
        wait_for(stepping.exists)
        began = time.monotonic()
        registry.delete(view.pool)
        assert time.monotonic() - began < LONG_S / 2
        assert not processes.running()
        with pytest.raises((PoolLost, PoolStopping)):
            step.result(LONG_S)
    assert not socket_of(view).exists()


def test_an_environment_that_cannot_be_closed_does_not_keep_a_pool(make_registry):
    """A worker that hangs in ``close`` is killed when the grace is over."""
    registry = make_registry(grace=0.2)
    view = registry.create(PoolSpec(env_id=odd("Stubborn-v0"), num_envs=2, workers=2))
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        began = time.monotonic()
        registry.delete(view.pool)
        assert time.monotonic() - began < LONG_S / 2
        assert not processes.running(0)


def test_a_host_that_stands_still_is_silent_and_can_be_deleted(make_registry):
    """A stopped host is reported as silent; ``delete`` ends it by force, and its workers go with it."""
    registry = make_registry(grace=0.0)
    view = registry.create(PoolSpec(env_id=COUNT, num_envs=2, workers=2))
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        processes.signal(view.host_pid, signal.SIGSTOP)
        silent = registry.get(view.pool)
        assert (silent.state, silent.stats) == ("silent", None)
        registry.delete(view.pool)
        assert not processes.running()
    assert not socket_of(view).exists()


def test_a_row_of_the_async_engine_that_dies_is_a_fault(registry, pool):
    """The process of one row may die: the step says so, and the next reset makes the rows again."""
    spec = PoolSpec(env_id=env_id("Kill-v0"), num_envs=2, engine="async", env_kwargs={"at": 1, "seed": 2})
    view = pool(spec)
    registry.reset(view.pool, seed=1)
    with pytest.raises(Exception, match=r"row \d raised") as caught:
        registry.step(view.pool, [0, 0])
    assert caught.value.code == "env_fault"
    assert registry.reset(view.pool, seed=5).observations[:, 0].tolist() == [5, 6]
    assert registry.step(view.pool, [0, 0]).observations[:, 2].tolist() == [1, 1]
