"""Whatever ends a program that drives a pool, nothing of it stays: no process, no shared memory, no socket file."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks
from tests.sampling import of_which

PROGRAM = """
import sys
import vecserver_client as vs
envs = vs.make_vec("CartPole-v1", 4, transport=sys.argv[1], restart_budget=0)
envs.reset(seed=1)
print("stepping", flush=True)
while True:
    envs.step(envs.action_space.sample())
"""


@pytest.fixture
def start():
    """Starts a program and waits for its first line; kills it at the end if it is still there."""
    started: list[subprocess.Popen] = []

    def run(*command: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        ready, _, _ = select.select([process.stdout], [], [], 60)
        assert ready
        assert process.stdout.readline()
        return process

    yield run
    for process in started:
        with process:
            process.kill()


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # a child is listed under the thread that started it
    children = [child for listed in lists for child in listed.read_text().split()]
    return [pid, *(member for child in children for member in family(int(child)))]


def await_end(pids: list[int]) -> None:
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            ended, _, _ = select.select([fd], [], [], 15)
            assert ended, f"process {pid} is still there: {Path(f'/proc/{pid}/cmdline').read_text()}"
        finally:
            os.close(fd)


@of_which("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], 0, 2)
def test_a_stepping_program_takes_its_server_and_pools_with_it(start, number):
    """Ctrl-C, SIGTERM and SIGKILL of the trainer end its private server, the host and the workers."""
    process = start("-c", PROGRAM, "ipc")
    members = family(process.pid)
    assert len(members) >= 4
    process.send_signal(number)
    process.communicate(timeout=30)
    await_end(members)
    assert not list(Path(os.environ[leaks.RUNTIME_DIR]).iterdir())


def test_an_interrupted_demo_leaves_nothing_and_no_traceback(start):
    """Ctrl-C in the demo says one sentence and ends everything."""
    process = start("-u", "-m", "vecserver", "demo", "--num-envs", "4")
    for line in process.stdout:
        if "update" in line:
            break
    members = family(process.pid)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    await_end(members)
    assert process.returncode == 130
    assert "Interrupted" in output
    assert "Traceback" not in errors
    assert not list(Path(os.environ[leaks.RUNTIME_DIR]).iterdir())


@of_which("which", ["server", "host", "worker"], 0, 1)
def test_a_killed_part_takes_what_is_below_it(start, which):
    """SIGKILL of the server, of a host or of a worker leaves no orphan and does not hang the trainer."""
    process = start("-c", PROGRAM, "tcp")
    members = family(process.pid)
    _, server, host, worker, *_ = members
    os.kill({"server": server, "host": host, "worker": worker}[which], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    await_end(members)
    # a worker may die in a batch, or between two
    expected = {"server": ["PoolLost"], "host": ["PoolLost"], "worker": ["WorkerDied", "PoolBroken"]}[which]
    assert any(f"errors.{name}" in errors for name in expected), errors
    assert not list(Path(os.environ[leaks.RUNTIME_DIR]).iterdir())
