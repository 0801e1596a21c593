from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.pools.processes import wait_for
from vecserver.cli.measure import peers
from vecserver.cli.measure.line_process import LineProcess
from vecserver.cli.measure.peers import PeerFailed, PeerSubject, chosen_peers, not_installed, parse_interpreters
from vecserver.wire.errors import LocalError

FAKE = """
import os, time
import numpy as np

class Envs:
    def __init__(self, rows):
        self.rows, self.steps = rows, 0

    def reset(self):
        pass

    def step(self, actions):
        {step}
        self.steps += 1
        over = np.arange(self.rows) < self.steps % 2  # row 0 is over in every second step
        return None, None, over, np.zeros(self.rows, bool), {{}}

    def close(self):
        pass

def make(env_id, num_envs, **_):
    {make}
    return Envs(num_envs)
"""


@pytest.fixture
def interpreter(tmp_path):
    """Makes another interpreter that has a package ``envpool``, which does as it is told."""

    def made(step="pass", make="pass", distribution="envpool"):
        (tmp_path / "envpool.py").write_text(FAKE.format(step=step, make=make))
        if distribution is not None:
            info = tmp_path / f"{distribution.replace('-', '_')}-9.9.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 9.9\n")
            (info / "top_level.txt").write_text("envpool\n")
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return made


def test_a_peer_of_another_interpreter_is_measured(interpreter):
    """It says what it is; rows that are only reset are not counted."""
    with PeerSubject("envpool", interpreter(), "CartPole-v1", 4) as peer:
        assert peer.setting.startswith("envpool 9.9, ")
        sample = peer.measure(0.05)
    steps = sample.steps_per_s * sum(sample.batch_ns) / 1e9
    assert steps == pytest.approx(len(sample.batch_ns) * 3.5, rel=0.05)
    assert sample.due is None


@pytest.mark.parametrize(
    ("distribution", "called"), [("envpool-fork", "envpool-fork 9.9"), (None, "envpool of unknown version")]
)
def test_a_peer_may_be_installed_as_something_else(interpreter, distribution, called):
    """Forks are, and what is only on the path is not installed at all."""
    with PeerSubject("envpool", interpreter(distribution=distribution), "CartPole-v1", 4) as peer:
        assert peer.setting.startswith(f"{called}, ")


def test_a_peer_is_asked_at_a_fixed_rate(interpreter):
    """As a pool is."""
    with PeerSubject("envpool", interpreter(), "CartPole-v1", 4, interval=0.005) as peer:
        sample = peer.measure(0.05)
    assert (sample.due, sample.begun, len(sample.batch_ns)) == (10, 10, 10)


def test_a_peer_that_cannot_be_made_says_why(interpreter):
    """In its own words; the process is gone."""
    with pytest.raises(PeerFailed, match="ValueError: no such game"):
        PeerSubject("envpool", interpreter(make="raise ValueError('no such game')"), "CartPole-v1", 4)


def test_a_peer_that_ends_in_a_round_has_failed(interpreter):
    """Some peers abort their process."""
    with (
        PeerSubject("envpool", interpreter(step="os.abort()"), "CartPole-v1", 4) as peer,
        pytest.raises(PeerFailed, match="its process ended"),
    ):
        peer.measure(0.05)


def test_a_peer_that_hangs_has_failed_and_is_ended(interpreter, monkeypatch):
    """Some peers wait for ever for a worker that is gone; nothing of it runs beside what is measured after it."""
    monkeypatch.setattr(peers, "_SLACK_S", 0.2)
    monkeypatch.setattr("vecserver.cli.measure.line_process._LEAVE_S", 0.1)
    with PeerSubject("envpool", interpreter(step="time.sleep(60)"), "CartPole-v1", 4) as peer:
        with pytest.raises(PeerFailed, match="did not answer"):
            peer.measure(0.05)
        assert not members(peer.pid)


def test_what_a_peer_left_in_its_group_is_ended_with_it(interpreter):
    """Workers of some peers outlive it."""
    left = "import subprocess; subprocess.Popen(['sleep', '60'])"
    with PeerSubject("envpool", interpreter(make=left), "CartPole-v1", 4) as peer:
        group = peer.pid
        assert len(members(group)) == 2
    wait_for(lambda: not members(group))


def members(group):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("name", ["async", "sync", "native"])
def test_gymnasiums_own_are_measured_too(name):
    """In a process of their own, as every peer."""
    with PeerSubject(name, sys.executable, "CartPole-v1", 2) as peer:
        assert peer.measure(0.02).steps_per_s > 0
        assert peer.setting.startswith("gymnasium ")


class TestWhichThereAre:
    def test_what_is_installed_nowhere_is_missing(self, monkeypatch):
        """Gymnasium's own are always there."""
        monkeypatch.setattr(peers, "find_spec", lambda module: None)
        chosen = chosen_peers({})
        assert list(chosen.interpreters) == ["async", "sync"]
        assert chosen.missing == [*peers.PACKAGES]
        assert not_installed(chosen.missing) == (
            "SubprocVecEnv (stable-baselines3), PufferLib (pufferlib-core), EnvPool (envpool), RLMesh (rlmesh), "
            "OpenEnv (openenv); where another interpreter has one: --peer NAME=PYTHON"
        )

    def test_an_environments_own_vector_environment_is_a_peer_of_native_pools(self, monkeypatch):
        """Others do not run it."""
        monkeypatch.setattr(peers, "find_spec", lambda module: None)
        assert list(chosen_peers({}, native=True).interpreters) == ["async", "sync", "native"]

    def test_another_interpreter_is_preferred(self, monkeypatch):
        """Who names one means it."""
        monkeypatch.setattr(peers, "find_spec", lambda module: object())
        chosen = chosen_peers({"rlmesh": "/elsewhere/python"})
        assert (chosen.interpreters["rlmesh"], chosen.interpreters["sb3"]) == ("/elsewhere/python", sys.executable)
        assert not chosen.missing

    @pytest.mark.parametrize(
        "text", ["pufferlib", "gym=/bin/sh", "envpool=/no/such/python", "envpool=", "envpool=/tmp"]
    )
    def test_an_interpreter_that_cannot_be_is_refused(self, text):
        """Before anything starts; says which option."""
        with pytest.raises(LocalError, match=f"--peer {text}"):
            parse_interpreters([text])

    def test_name_and_program_are_taken_apart(self):
        """A path may have an equals sign."""
        assert parse_interpreters([f"sb3={sys.executable}"]) == {"sb3": sys.executable}


class TestLineProcess:
    def test_lines_come_one_by_one(self):
        """Also where several arrive at once."""
        process = LineProcess(["sh", "-c", "printf 'one\\ntwo\\n'; read x; echo got $x"])
        assert [process.answer(10), process.answer(10)] == ["one", "two"]
        process.ask("three")
        assert process.answer(10) == "got three"
        with pytest.raises(EOFError):
            process.answer(10)
        process.close()
        process.close()

    def test_a_wait_has_an_end(self):
        """The process may still answer later."""
        process = LineProcess(["sh", "-c", "read x; echo late"])
        with pytest.raises(TimeoutError):
            process.answer(0.05)
        process.ask("go")
        assert process.answer(10) == "late"
        process.close()

    def test_one_that_does_not_leave_is_killed(self, monkeypatch):
        """Whatever it ignores."""
        monkeypatch.setattr("vecserver.cli.measure.line_process._LEAVE_S", 0.1)
        process = LineProcess(["sh", "-c", "trap '' TERM INT; echo ready; while :; do sleep 1; done"])
        assert process.answer(10) == "ready"
        process.close()
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, signal.SIG_DFL)
