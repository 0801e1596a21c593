"""What a server on a full disk must live through, for the test and for the report."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pytest

import vecserver_client as vs
from tests.chaos.small_disk import PATIENCE_S, SmallDisk
from tests.contract.compare import assert_same_batch
from tests.contract.vector_contract import COUNT, make_oracle
from tests.pools.odd_environments import odd
from vecserver.wire.errors import StateUnavailable
from vecserver_client import ControlClient

ROWS = 4
STEPS = 40
LOST = re.compile(r"\d+ lines \(\d+ bytes\) could not be written here: No space left on device")


class Endured(NamedTuple):
    """How it went.

    Attributes:
        steps: That were taken while the disk was full, each the oracle's.
        refusal: What a durable pool was refused with.
        losses: What the log says that it lacks.
    """

    steps: int
    refusal: str
    losses: list[str]


def endure(disk: SmallDisk) -> Endured:
    """Environments print all the while; a durable pool is refused and not there; with room again everything goes on."""
    wanted = {"name": "kept", "env_id": "CartPole-v1", "num_envs": 1, "workers": 1, "durable": True}
    with ControlClient(disk.url, disk.token) as control, closing(make_oracle(COUNT, ROWS)) as oracle:
        pool = control.create_pool(env_id=odd("Talkative-v0"), num_envs=ROWS, workers=2)["pool"]
        with closing(vs.attach(disk.url, pool, transport="tcp", token=disk.token)) as envs:
            envs.reset(seed=1)
            oracle.reset(seed=1)

            def step() -> None:
                for _ in range(STEPS):
                    actions = np.ones(ROWS, int)
                    assert_same_batch(envs.step(actions), oracle.step(actions), "step")

            step()
            disk.fill()
            step()
            for _ in range(2):  # the second time its file is there
                with pytest.raises(StateUnavailable, match=r"disk.*make room") as refused:
                    control.create_pool(**wanted)
            assert [each["pool"] for each in control.list_pools()] == [pool]
            another = control.create_pool(env_id="CartPole-v1", num_envs=1, workers=1)["pool"]
            control.delete_pool(another)
            step()
            disk.free()
            step()
        control.create_pool(**wanted)
        control.delete_pool("kept")
        control.delete_pool(pool)
    return Endured(2 * STEPS, str(refused.value), _losses(disk))


def _losses(disk: SmallDisk) -> list[str]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        lines = disk.log.splitlines()
        # of the server's own lines, and of what each worker printed, behind what another was just printing
        losses = [LOST.search(json.loads(line)["message"]) for line in lines if LOST.search(line)]
        if len(losses) > 1:
            return [loss[0] for loss in losses if loss]
        assert time.monotonic() < deadline, "nobody says what was lost"
        threading.Event().wait(0.05)
