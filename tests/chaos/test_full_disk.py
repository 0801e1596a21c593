"""A disk that is full: stepping goes on, what would have to be kept is refused, and logs say what they lost."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import vecserver_client as vs
from tests import leaks
from tests.chaos.small_disk import PATIENCE_S, server_on_a_small_disk, why_not
from tests.contract.compare import assert_same_batch
from tests.contract.vector_contract import COUNT, make_oracle
from tests.pools.odd_environments import odd
from vecserver.wire.errors import StateUnavailable
from vecserver_client import ControlClient

ROWS = 4
STEPS = 40


@pytest.fixture
def disk():
    """A server on a small disk."""
    if reason := why_not():
        pytest.skip(f"no disk of its own for a server here: {reason}")
    mount = Path(os.environ[leaks.RUNTIME_DIR]) / "disk"
    mount.mkdir()
    try:
        with server_on_a_small_disk(mount) as disk:
            yield disk
    finally:
        mount.rmdir()


@pytest.mark.slow
def test_a_full_disk_keeps_nobody_from_stepping(disk):
    """Environments print all the while; a durable pool is refused and not there; with room again everything goes on."""
    refused = {"env_id": "CartPole-v1", "num_envs": 1, "workers": 1, "durable": True}
    with ControlClient(disk.url) as control, closing(make_oracle(COUNT, ROWS)) as oracle:
        pool = control.create_pool(env_id=odd("Talkative-v0"), num_envs=ROWS, workers=2)["pool"]
        with closing(vs.attach(disk.url, pool, transport="tcp")) as envs:
            envs.reset(seed=1)
            oracle.reset(seed=1)

            def step(times: int) -> None:
                for _ in range(times):
                    actions = np.ones(ROWS, int)
                    assert_same_batch(envs.step(actions), oracle.step(actions), "step")

            step(5)
            disk.fill()
            step(STEPS)
            for _ in range(2):  # the second time its file is there
                with pytest.raises(StateUnavailable, match="disk.*make room"):
                    control.create_pool(name="kept", **refused)
            assert [each["pool"] for each in control.list_pools()] == [pool]
            another = control.create_pool(env_id="CartPole-v1", num_envs=1, workers=1)["pool"]
            control.delete_pool(another)
            step(STEPS)
            disk.free()
            step(STEPS)
        control.create_pool(name="kept", **refused)
        control.delete_pool("kept")
        control.delete_pool(pool)
    deadline = time.monotonic() + PATIENCE_S
    while disk.log.count("could not be written here: No space left on device") < 2:  # of its own, and of a worker
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    assert all(
        json.loads(line) for line in disk.log.splitlines() if not line.startswith('{"time"') or line.endswith("}")
    )
