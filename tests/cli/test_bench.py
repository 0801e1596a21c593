from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from tests.cli.bench_command import BENCH, TINY, environment, run
from vecserver.cli.measure import ceiling as ceiling_module
from vecserver.cli.measure.bare_loop import _BareLoop
from vecserver.cli.measure.ceiling import Ceiling
from vecserver.cli.measure.peers import PACKAGES
from vecserver.cli.measure.subjects import SEED, PartsSubject, VectorSubject, action_batches
from vecserver.wire.errors import DeadlineExceeded, WorkerDied
from vecserver_client import make_vec


@pytest.fixture(scope="module")
def report():
    """A comparison of everything, as JSON."""
    done = run(*TINY, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestTheWholeCommand:
    def test_every_subject_is_measured_in_every_round(self, report):
        """The ceiling comes first, then Gymnasium's own, then a pool a transport."""
        assert [subject["name"] for subject in report["subjects"]] == [
            "ceiling",
            "AsyncVectorEnv",
            "SyncVectorEnv",
            *(title for title, module in PACKAGES.values() if find_spec(module)),
            "vecserver shm",
            "vecserver tcp",
            "vecserver ipc",
        ]
        for subject in report["subjects"]:
            assert len(subject["rates"]) == report["rounds"] == 2
            assert 0 < subject["lowest"] <= subject["median"] <= subject["highest"]
            assert "first_batch_s" not in subject  # only a pool's is from the call that makes it to its first step
            if subject["name"] != "ceiling":
                assert 0 < subject["p50_ms"] <= subject["p90_ms"] <= subject["p99_ms"] <= subject["max_ms"]

    def test_ratios_are_of_rates_of_the_same_round(self, report):
        """Each ratio is the median of the rounds' ratios, not the ratio of the medians; lowest and highest stand beside it."""
        rates = {subject["name"]: subject["rates"] for subject in report["subjects"]}
        for subject in report["subjects"]:
            for other, key in (("ceiling", "of_ceiling"), ("AsyncVectorEnv", "of_async")):
                ratios = [a / b for a, b in zip(subject["rates"], rates[other], strict=True)]
                assert subject[key] == pytest.approx(statistics.median(ratios))
                assert subject[f"{key}_rounds"] == pytest.approx([min(ratios), max(ratios)])

    def test_it_says_what_was_measured_and_on_what(self, report):
        """The machine, the versions, and what the pools are made of."""
        assert (report["env_id"], report["num_envs"], report["seconds"]) == ("CartPole-v1", 3, 0.05)
        assert report["machine"]["affinity"] == sorted(os.sched_getaffinity(0))
        assert report["machine"]["cpu"]
        assert set(report["versions"]) == {"vecserver", "python", "gymnasium", "numpy", "pyzmq"}
        assert report["ceiling_processes"] == min(3, len(os.sched_getaffinity(0)))
        assert report["server_rss_bytes"] > 1 << 20
        assert [pool["subject"] for pool in report["pools"]] == ["vecserver shm", "vecserver tcp", "vecserver ipc"]
        for pool in report["pools"]:
            assert pool["first_batch_s"] > pool["creation_s"] > 0
            assert (pool["engine"], len(pool["worker_rss_bytes"])) == ("envs", pool["workers"])
            assert min(pool["arena_bytes"], pool["host_rss_bytes"], *pool["worker_rss_bytes"]) > 0

    def test_peers_that_are_not_installed_are_named(self, report):
        """It is no error."""
        assert report["not_installed"] == [name for name, (_, module) in PACKAGES.items() if not find_spec(module)]
        assert report["left_out"] == []


@pytest.fixture(scope="module")
def kept():
    """One pool at a rate that any machine keeps."""
    done = run(*TINY, "--no-peers", "--transport", "ipc", "--rate", "30", "--seconds", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestAFixedRate:
    def test_batches_come_as_often_as_was_asked(self, kept):
        """30 steps a second of three rows are five batches in half a second; none is compared with a ceiling."""
        (pool,) = kept["subjects"]
        assert (pool["name"], kept["rate"]) == ("vecserver ipc", 30)
        assert (pool["due"], pool["begun"], pool["kept"]) == (10, 10, True)
        assert pool["median"] <= 30.1
        assert (pool["of_ceiling"], pool["of_async"]) == (None, None)

    @pytest.mark.slow
    def test_a_rate_that_is_too_high_is_reported_as_not_kept(self):
        """The table says how many of the batches that were due were begun."""
        done = run(*TINY, "--no-peers", "--transport", "ipc", "--rate", "10000000")
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("vecserver ipc") and " of " in line]
        assert "no" in line.split()

    def test_it_is_not_drawn(self):
        """A picture of rates that were given says nothing."""
        done = run(*TINY, "--rate", "5", "--plot", "x.png")
        assert done.returncode == 2


class TestSeveralRuns:
    def test_one_that_cannot_run_is_told_of_and_the_others_go_on(self):
        """As JSON they are an array; the one that could not be made has an error with its code."""
        done = run(*TINY, "--no-peers", "--transport", "ipc", "--env", "NoSuch-v0", "-n", "2", "--json")
        assert done.returncode == 0, done.stderr
        found = [(one["env_id"], one["num_envs"], one.get("error", {}).get("code")) for one in json.loads(done.stdout)]
        assert found == [
            ("CartPole-v1", 3, None),
            ("CartPole-v1", 2, None),
            ("NoSuch-v0", 3, "unknown_env"),
            ("NoSuch-v0", 2, "unknown_env"),
        ]

    def test_when_none_can_run_it_fails(self):
        """Each says why."""
        done = run("--env", "NoSuch-v0", "--env", "NorThis-v0")
        assert done.returncode == 1
        assert done.stdout.count("not measured [unknown_env]") == 2

    @pytest.mark.slow
    def test_a_pool_that_cannot_be_made_is_left_out_with_its_reason(self):
        """The others of the same run are measured; their names tell them apart."""
        options = ("--no-peers", "--transport", "ipc", "--workers", "1", "--workers", "9", "--engine", "envs")
        report = json.loads(run(*TINY, *options, "--engine", "sync", "--json").stdout)
        assert [pool["subject"] for pool in report["pools"]] == ["vecserver ipc envs w1", "vecserver ipc sync w1"]
        assert {one["subject"] for one in report["left_out"]} == {"vecserver ipc envs w9", "vecserver ipc sync w9"}
        assert all("9" in one["reason"] for one in report["left_out"])

    def test_a_pool_that_is_split_is_measured_beside_a_whole_one(self):
        """Its parts step in turns; one that cannot be split so far is left out with its reason."""
        options = ("--no-peers", "--transport", "tcp", "--workers", "2", "--parts", "1", "--parts", "2", "--parts", "3")
        report = json.loads(run(*TINY, *options, "--json").stdout)
        assert [pool["subject"] for pool in report["pools"]] == ["vecserver tcp", "vecserver tcp ÷2"]
        assert [one["subject"] for one in report["left_out"]] == ["vecserver tcp ÷3"]
        assert report["subjects"][2]["p50_ms"] > 0

    def test_an_unknown_transport_is_wrong_usage(self):
        """Found before anything starts."""
        done = run("--transport", "carrier-pigeon")
        assert (done.returncode, done.stdout) == (2, "")
        assert "shm, tcp, ipc" in done.stderr


@contextlib.contextmanager
def started(*options):
    """The command, once it measures."""
    command = subprocess.Popen(
        [*BENCH, "--num-envs", "4", "--seconds", "1", "--rounds", "40", "--transport", "ipc", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    with command:
        for line in command.stderr:
            if line == "warming up\n":
                break
        yield command


def test_ctrl_c_ends_everything_without_a_word():
    """A terminal's Ctrl-C reaches the whole group: no process stays, and none prints a traceback."""
    with started() as command:
        os.killpg(command.pid, signal.SIGINT)
        rest = command.stderr.read()
        assert command.wait(30) != 0
    assert "Traceback" not in rest


@pytest.mark.parametrize("program", ["bare_loop", "peer_process"])
def test_a_process_that_nobody_listens_to_any_more_ends_without_a_word(program):
    """Ctrl-C may come while the program is starting it."""
    arguments = {"bare_loop": ("CartPole-v1", "1", "0", "1"), "peer_process": ("sync", "CartPole-v1", "1")}[program]
    listen, speak = os.pipe()
    os.close(listen)
    with os.fdopen(speak, "wb") as answers:
        command = [
            sys.executable,
            Path(ceiling_module.__file__).with_name(f"{program}.py"),
            str(os.getpid()),
            *arguments,
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=answers, stderr=subprocess.PIPE, text=True, timeout=30
        )
    assert done.stderr == ""


def test_what_it_started_ends_with_it_even_when_it_is_killed():
    """Peers, ceiling, server and pool: the check after each test finds what stays."""
    with started() as command:
        command.kill()
        assert command.wait(30) == -signal.SIGKILL


def test_an_unknown_environment_is_refused_before_anything_starts():
    """One line names the nearest ids."""
    done = run("--env", "Cartpole-v1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error [unknown_env]: ")
    assert done.stderr.count("\n") == 1


class TestCounting:
    def test_parts_are_counted_each_for_itself(self):
        """Row i of a part is over in every second step; each part has its own rows of the actions."""

        class Part:
            num_envs = 2

            def __init__(self, first):
                self.rows, self.taken, self.played = range(first, first + 2), [], 0
                self.over, self.pending = np.zeros(2, bool), False

            def step_async(self, actions):
                assert not self.pending
                self.pending = True
                self.taken.append(actions.tolist())

            def step_wait(self):
                assert self.pending
                self.pending = False
                self.played += int((~self.over).sum())
                self.over = ~self.over
                return None, None, self.over, np.zeros(2, bool), {}

        parts = [Part(0), Part(2)]
        subject = PartsSubject(parts, [np.arange(4), np.arange(4) + 10])
        samples = [subject.measure(0.002) for _ in range(2)]
        counted = sum(sample.steps_per_s * sum(sample.batch_ns) / 1e9 for sample in samples)
        asleep = [part.pending for part in parts]
        assert asleep == [False, False]
        # the last of each round is not counted: it ends behind the round
        assert sum(part.played for part in parts) - 8 <= counted <= sum(part.played for part in parts)
        assert parts[0].taken[:3] == [[0, 1], [10, 11], [0, 1]]
        assert parts[1].taken[:2] == [[2, 3], [12, 13]]

    class Alternating:
        """Four rows of which row i is over in every (i + 2)th step, so that it resets in the step after."""

        num_envs = 4

        def __init__(self):
            self.over = np.zeros(4, bool)
            self.calls, self.played = 0, 0
            self.actions = []

        def reset(self, seed):
            assert seed == SEED

        def step(self, actions):
            self.calls += 1
            self.actions.append(actions)
            self.played += int((~self.over).sum())
            self.over = ~self.over & (self.calls % (np.arange(4) + 2) == 0)
            return None, None, self.over, np.zeros(4, bool), {}

    def test_steps_that_only_reset_a_row_are_left_out(self):
        """The rate times the time is what the rows played, also over the border between two rounds."""
        envs = self.Alternating()
        subject = VectorSubject(envs, ["a", "b", "c"])
        samples = [subject.measure(0.002) for _ in range(3)]
        counted = [sample.steps_per_s * sum(sample.batch_ns) / 1e9 for sample in samples]
        assert sum(counted) == pytest.approx(envs.played)
        assert sum(len(sample.batch_ns) for sample in samples) == envs.calls
        assert envs.actions == [*"abc" * (envs.calls // 3 + 1)][: envs.calls]

    def test_every_process_gets_the_same_actions(self):
        """A process of the ceiling hands row i what the vector environments hand it."""

        class Spy:
            action_space = gymnasium.spaces.Discrete(1000)

            def __init__(self):
                self.taken = []

            def reset(self, seed=None):
                self.seed = seed

            def step(self, action):
                self.taken.append(int(action))
                return None, 0.0, False, False, {}

        rows = [Spy(), Spy()]
        steps, nanoseconds = _BareLoop(rows, 3, 8).run(0.001)
        expected = np.array(action_batches(Spy.action_space, 8))[:, 3:5]
        taken = np.array([row.taken for row in rows]).T
        count = min(len(taken), len(expected))
        assert (taken[:count] == expected[:count]).all()
        assert [row.seed for row in rows] == [SEED + 3, SEED + 4]
        assert steps == taken.size
        assert nanoseconds >= 1e6


def test_a_subject_costs_no_processor_time_while_another_is_measured():
    """The ceiling's processes wait at a pipe, a pool's at their bells: hardly a clock tick in a third of a second."""

    def ticks(pids):
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(one[11]) + int(one[12]) for one in fields)

    with Ceiling("CartPole-v1", 2) as ceiling, make_vec("CartPole-v1", 2, transport="ipc") as envs:
        pool = VectorSubject(envs, action_batches(envs.single_action_space, 2))
        assert pool.measure(0.01).steps_per_s > 0
        assert ceiling.measure(0.01).steps_per_s > 0
        pids = [*ceiling.pids, *envs.stats().worker_pids]
        before = ticks(pids)
        threading.Event().wait(0.3)
        assert ticks(pids) - before <= 3


def test_a_process_of_the_ceiling_that_ends_is_an_error():
    """It is named, and the others are ended."""
    with Ceiling("CartPole-v1", 2) as ceiling:
        os.kill(ceiling.pids[0], signal.SIGKILL)
        with pytest.raises(WorkerDied, match="process of the ceiling ended"):
            ceiling.measure(0.01)


def test_a_process_of_the_ceiling_that_hangs_is_an_error(monkeypatch):
    """The comparison ends with it, instead of waiting for ever."""
    monkeypatch.setattr(ceiling_module, "_SLACK_S", 0.2)
    monkeypatch.setattr("vecserver.cli.measure.line_process._LEAVE_S", 0.1)
    with Ceiling("CartPole-v1", 2) as ceiling:
        os.kill(ceiling.pids[0], signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded, match="did not answer within 0.21 s"):
            ceiling.measure(0.01)


def test_the_counting_agrees_with_gymnasiums_own_environment():
    """A real vector environment is reset and stepped as any caller does."""
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    assert VectorSubject(envs, action_batches(envs.single_action_space, 2)).measure(0.01).steps_per_s > 0
    envs.close()
