"""A time of day that jumps, as by a correction or a suspended machine, changes no lease and no deadline."""

from __future__ import annotations

import ast
import os
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import vecserver_client as vs
from tests.chaos.driving import drive
from tests.chaos.oracle_environment import ORACLE
from tests.chaos.test_leases import LONG_S, gone, until
from tests.environments import env_id
from vecserver_client import ControlClient, LocalServer

ROOT = Path(__file__).resolve().parents[2]
TTL_S = 0.3
OF_THE_DAY = {
    "time.time",
    "time.time_ns",
    "time.clock_gettime",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
}


@pytest.fixture
def jumping_server(monkeypatch):
    """A server, with hosts and workers, whose time of day jumps by years; so does this process's."""
    folder = Path(__file__).with_name("jumping")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
    namespace: dict = {"__name__": "sitecustomize"}
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, getattr(time, name))  # and back afterwards
    exec((folder / "sitecustomize.py").read_text(), namespace)
    assert len({time.time() // 1e6 for _ in range(9)}) > 1
    with closing(LocalServer()) as server:
        yield server


def test_leases_and_deadlines_hold_while_the_time_of_day_jumps(jumping_server):
    """A driver that is heard of keeps its pool, one that is gone loses it, and a worker that hangs is killed in time."""
    with ControlClient(jumping_server.url) as control:
        options = {"env_id": ORACLE, "num_envs": 4, "engine": "native", "env_kwargs": {"padding": 0}}
        pool = control.create_pool(**options, lease_ttl=LONG_S, lease_expiry="destroy")
        with closing(vs.attach(jumping_server.url, pool["pool"], transport="tcp")) as envs:
            drive(envs, 100)
            until(lambda: control.get_pool(pool["pool"])["stats"]["idle_s"] > TTL_S)
        control.delete_pool(pool["pool"])
        left = control.create_pool(**options, lease_ttl=TTL_S, lease_expiry="destroy")
        control.take_lease(left["pool"], "ann")
        until(lambda: gone(control, left))
        hanging = {"num_envs": 1, "url": jumping_server.url, "transport": "tcp", "step_timeout": TTL_S}
        with closing(vs.make_vec(env_id("Hang-v0"), **hanging)) as envs:
            envs.reset(seed=1)
            assert "took longer than" in envs.step(np.ones(1, int))[4]["env_failure"][0]


def test_no_duration_is_measured_by_a_clock_that_jumps():
    """The time of day is for people alone: leases, deadlines and retries go by the monotonic clock."""
    # when a pool was made, a line written, and what a page shows as the time of day
    allowed = {"vecserver/pools/upkeep.py", "vecserver/logs.py", "vecserver/control/web/sampler.py"}
    users = set()
    for path in [*ROOT.glob("vecserver/**/*.py"), *ROOT.glob("clients/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Attribute):
                names = {".".join(ast.unparse(node).split(".")[-2:])}
            elif isinstance(node, ast.ImportFrom) and node.module == "time":
                names = {f"time.{alias.name}" for alias in node.names}
            if names & OF_THE_DAY:
                users.add(str(path.relative_to(ROOT)))
    assert users <= allowed, users
