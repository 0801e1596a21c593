"""The long form of what is killed: workers and trainers while they step, and servers while trainers step."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from gymnasium.vector import VectorEnv

import vecserver_client as vs
from tests.chaos.oracle_environment import ORACLE
from tests.clients.surviving import COUNT, SOON_S, survive
from tests.clients.twins import DRAWN, ROWS, Twins, outlive
from tests.test_serve import PATIENCE_S, Trainer
from tests.test_serve import server as own_server
from vecserver_client import ControlClient, LocalServer

Say = Callable[[str], None]
"""Takes one line of a report."""
TRANSPORTS = ("tcp", "ipc", "shm", "ws")
MODES = ("NextStep", "SameStep", "Disabled")
RECOVERY_S = 1.0
"""In which 99 of 100 killed workers must be replaced, beside the construction of their environments."""
TTL_S = 0.5
END_S = 5.0
"""In which a server must be gone after SIGTERM, and a batch."""
CLIENT = """
import sys
import vecserver_client as vs
envs = vs.attach(sys.argv[1], sys.argv[2], transport=sys.argv[3])
envs.reset(seed=1)
print("stepping", flush=True)
while True:
    envs.step(envs.action_space.sample())
"""


def worker_kills(say: Say, server: LocalServer, control: ControlClient, kills: int) -> None:
    """Kills workers at random moments of random steps, and compares every row with an undisturbed one."""
    each = -(-kills // (len(TRANSPORTS) * len(MODES)))

    def kill(envs: VectorEnv, worker: int) -> None:
        os.kill(control.get_pool(envs.pool)["stats"]["worker_pids"][worker], signal.SIGKILL)

    say("| transport | workers killed | p50 | p99 | worst |")
    say("|---|---|---|---|---|")
    everything: list[float] = []
    for transport in TRANSPORTS:
        times: list[float] = []
        for mode in MODES:
            options = {"workers": 3, "autoreset_mode": mode, "restart_budget": None}
            with closing(vs.make_vec(COUNT, 6, url=server.url, transport=transport, **options)) as envs:
                times += survive(envs, each, kill)
                assert envs.stats().restarts == {"killed": each}
        everything += times
        say(_recovery(transport, times))
    say(_recovery("all", everything))
    say("")
    say(
        f"Each of {len(everything):,} batches came, none of them later than {SOON_S:g} s: 0 hung. Every row of another "
        f"worker was the undisturbed run's, to the bit."
    )
    assert np.quantile(everything, 0.99) < RECOVERY_S, "workers are not replaced soon enough"


def replay_kills(say: Say, server: LocalServer, control: ControlClient, kills: int) -> None:
    """The same for pools that replay: not a row of any worker may show that it was killed."""
    each = -(-kills // (len(TRANSPORTS) * len(MODES)))

    def kill(envs: VectorEnv, worker: int) -> None:
        os.kill(control.get_pool(envs.pool)["stats"]["worker_pids"][worker], signal.SIGKILL)

    say("| transport | workers killed | p50 | p99 | worst |")
    say("|---|---|---|---|---|")
    everything: list[float] = []
    for transport in TRANSPORTS:
        times: list[float] = []
        for mode in MODES:
            options = {"workers": 3, "autoreset_mode": mode, "restart_budget": None, "on_failure": "replay"}
            with (
                closing(vs.make_vec(DRAWN, ROWS, url=server.url, transport=transport, **options)) as envs,
                closing(Twins(envs)) as twins,
            ):
                times += outlive(twins, each, kill)
                assert envs.stats().restarts == {"killed": each}
        everything += times
        say(_recovery(transport, times))
    say(_recovery("all", everything))
    say("")
    say(
        f"{len(everything):,} workers were killed, and no row was truncated: all were the undisturbed run's, to the bit."
    )


def _recovery(what: str, times: list[float]) -> str:
    p50, p99, worst = (figure * 1e3 for figure in (np.median(times), np.quantile(times, 0.99), max(times)))
    return f"| {what} | {len(times):,} | {p50:.0f} ms | {p99:.0f} ms | {worst:.0f} ms |"


@contextmanager
def pool_of_oracles(control: ControlClient, rows: int, **options) -> Iterator[dict]:
    """A pool that is deleted behind the block, if it still is there."""
    pool = control.create_pool(env_id=ORACLE, num_envs=rows, engine="native", **options)
    try:
        yield pool
    finally:
        if pool["pool"] in {each["pool"] for each in control.list_pools()}:
            control.delete_pool(pool["pool"], force=True)


def client_kills(say: Say, server: LocalServer, control: ControlClient, kills: int) -> None:
    """Kills trainers in the middle of a step; how long their pools outlive them."""
    took = []
    for number in range(kills):
        with pool_of_oracles(control, 8, lease_ttl=TTL_S, lease_expiry="destroy") as pool:
            members = [pool["host_pid"], *pool["stats"]["worker_pids"]]
            command = [sys.executable, "-c", CLIENT, server.url, pool["pool"], ("tcp", "ipc", "ws")[number % 3]]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"stepping\n"
                client.kill()
                began = time.monotonic()
                while control.list_pools():
                    assert time.monotonic() < began + PATIENCE_S, "the pool is still there"
                took.append(time.monotonic() - began)
            assert not [pid for pid in members if Path(f"/proc/{pid}").exists()], "a process is left"
    in_time = sum(seconds <= TTL_S + 1.0 for seconds in took)
    median, slowest = statistics.median(took), max(took)
    what = f"{kills} trainers were killed in a step, with `lease_ttl` {TTL_S:g} s and `lease_expiry` `destroy`"
    when = f"{in_time} pools were gone within {TTL_S + 1:g} s, with their processes"
    say(f"{what}: {when}; median {median:.2f} s, slowest {slowest:.2f} s.")
    assert in_time == kills, "a pool was there for longer"


def ends_under_load(say: Say, servers: int) -> None:
    """Tells servers to end while three trainers step each of them without a pause; how long that takes."""
    took = []
    for _ in range(servers):
        with own_server(VECSERVER_GRACE=f"{END_S:g}") as running:
            trainers = [Trainer(running.url, transport) for transport in ("shm", "tcp", "ws")]
            assert all(trainer.stepped.wait(PATIENCE_S) for trainer in trainers)
            began = time.monotonic()
            running.process.terminate()
            status = running.wait()
            took.append(time.monotonic() - began)
            assert status == 0
            told = {type(trainer.end()).__name__ for trainer in trainers}
            assert told <= {"PoolLost", "PoolStopping"}, told
    median, slowest = statistics.median(took), max(took)
    say(
        f"{servers} servers were sent SIGTERM while trainers stepped over shm, tcp and ws: all left with status 0, after "
        f"{median:.2f} s (median), {slowest:.2f} s at the longest; each trainer was told that its pool has ended."
    )
    assert slowest < END_S, "a server was there for longer"
