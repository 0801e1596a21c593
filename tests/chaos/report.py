"""The long form of the chaos tests: ``make chaos``. Shows and writes a report, and fails where anything was lost.

It needs some minutes, and is a program and no test so that its figures are those of one run from its begin to its end.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

from tests import leaks
from tests.chaos.driving import LoopedEnvs, attached, drive
from tests.chaos.faults import Faults
from tests.chaos.oracle_environment import ORACLE
from tests.chaos.proxy import FaultProxy
from vecserver_client import ControlClient, LocalServer

ROWS = 512
NETWORK = Faults(
    lose=0.01, double=0.01, delay=0.01, repeat_old=0.01, cut=0.002, cut_inside=0.002, half_close=0.001, stall=0.0005
)
TTL_S = 0.5
CLIENT = """
import sys
import vecserver_client as vs
envs = vs.attach(sys.argv[1], sys.argv[2], transport=sys.argv[3])
envs.reset(seed=1)
print("stepping", flush=True)
while True:
    envs.step(envs.action_space.sample())
"""


@contextmanager
def pool_of_oracles(control: ControlClient, rows: int, **options) -> Iterator[dict]:
    """A pool that is deleted behind the block, if it still is there."""
    pool = control.create_pool(env_id=ORACLE, num_envs=rows, engine="native", **options)
    try:
        yield pool
    finally:
        if pool["pool"] in {each["pool"] for each in control.list_pools()}:
            control.delete_pool(pool["pool"], force=True)


def exactly_once(server: LocalServer, control: ControlClient, steps: int, seed: int) -> list[str]:
    """Drives millions of oracle steps through a bad network; the lines of the report."""
    lines = [
        "| client | oracle steps | batches | s | slowest batch | lost | doubled | late | repeated old | cut | stalled |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    clients = ["tcp"] * 7 + ["ipc", "asyncio tcp", "asyncio ipc"]
    for number, client in enumerate(clients):
        *looped, transport = client.split()
        batches = -(-steps // len(clients) // ROWS)
        path = str(Path(os.environ[leaks.RUNTIME_DIR]) / "proxy") if transport == "ipc" else None
        began = time.monotonic()
        with pool_of_oracles(control, ROWS) as pool:
            with FaultProxy(pool["endpoints"][transport], NETWORK, seed + number, path=path) as proxy:
                if looped:
                    with closing(LoopedEnvs(server.url, pool, transport, proxy.endpoint)) as envs:
                        record = drive(envs, batches, seed=number)
                else:
                    with attached(control, pool, transport, proxy.endpoint) as envs:
                        record = drive(envs, batches, seed=number)
            taken = control.get_pool(pool["pool"])["stats"]["batches"]
            assert taken == batches, f"{taken} batches were taken, {batches} were asked for"
        count: Counter[str] = proxy.counts
        cuts = count["cut"] + count["cut_inside"] + count["half_close"]
        lines.append(
            f"| {client} | {batches * ROWS:,} | {batches} | {time.monotonic() - began:.1f} | {max(record.times):.2f} s | "
            f"{count['lose']} | {count['double']} | {count['delay']} | {count['repeat_old']} | {cuts} | {count['stall']} |"
        )
        sys.stdout.write(lines[-1] + "\n")
    return lines


def client_kills(server: LocalServer, control: ControlClient, kills: int) -> list[str]:
    """Kills trainers in the middle of a step; how long their pools outlive them."""
    took = []
    for number in range(kills):
        with pool_of_oracles(control, 8, lease_ttl=TTL_S, lease_expiry="destroy") as pool:
            members = [pool["host_pid"], *pool["stats"]["worker_pids"]]
            command = [sys.executable, "-c", CLIENT, server.url, pool["pool"], ("tcp", "ipc")[number % 2]]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"stepping\n"
                client.kill()
                began = time.monotonic()
                while control.list_pools():
                    assert time.monotonic() < began + 30.0, "the pool is still there"
                took.append(time.monotonic() - began)
            assert not [pid for pid in members if Path(f"/proc/{pid}").exists()], "a process is left"
    in_time = sum(seconds <= TTL_S + 1.0 for seconds in took)
    median, slowest = statistics.median(took), max(took)
    what = f"{kills} trainers were killed in a step, with `lease_ttl` {TTL_S:g} s and `lease_expiry` `destroy`"
    when = f"{in_time} pools were gone within {TTL_S + 1:g} s, with their processes"
    return [f"{what}: {when}; median {median:.2f} s, slowest {slowest:.2f} s."]


def main() -> None:
    """Runs everything and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000_000, help="oracle steps: rows x batches")
    parser.add_argument("--kills", type=int, default=200, help="trainers to kill")
    parser.add_argument("--seed", type=int, default=1, help="of the network's faults")
    parser.add_argument("--out", type=Path, default=Path("chaos-report.md"), help="where the report is written")
    options = parser.parse_args()
    os.environ[leaks.RUNTIME_DIR] = f"/tmp/vs-chaos-{os.getpid()}"
    Path(os.environ[leaks.RUNTIME_DIR]).mkdir(mode=0o700)
    before = leaks.Snapshot.take()
    began = time.monotonic()
    with closing(LocalServer()) as server, ControlClient(server.url) as control:
        steps = exactly_once(server, control, options.steps, options.seed)
        kills = client_kills(server, control, options.kills)
    left = leaks.left_over(before).texts()
    Path(os.environ[leaks.RUNTIME_DIR]).rmdir()
    cores = len(os.sched_getaffinity(0))
    machine = (
        f"{platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}, "
        f"gymnasium {version('gymnasium')}, {time.monotonic() - began:.0f} s in all, seed {options.seed}."
    )
    text = "\n".join(
        [
            "# Chaos report",
            "",
            machine,
            "",
            "## Exactly once",
            "",
            f"`{NETWORK}`",
            "",
            *steps,
            "",
            "## Client kills",
            "",
            *kills,
        ]
        + ["", "## Left behind", "", *(left or ["Nothing: no process, thread, descriptor, shared memory or file."]), ""]
    )
    options.out.write_text(text)
    sys.stdout.write(text)
    sys.exit(bool(left))


if __name__ == "__main__":
    main()
