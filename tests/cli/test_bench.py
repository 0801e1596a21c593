from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from benchmarks.__main__ import markdown
from vecserver.cli.bench import _print_report
from vecserver.cli.measure import compare
from vecserver.cli.measure.bare_loop import _BareLoop
from vecserver.cli.measure.ceiling import Ceiling
from vecserver.cli.measure.report import PoolFacts, Report, subject_reports
from vecserver.cli.measure.subjects import SEED, Sample, VectorSubject, action_batches
from vecserver.wire.errors import WorkerDied
from vecserver_client import make_vec

BENCH = (sys.executable, "-m", "vecserver", "bench")
TINY = ("--env", "CartPole-v1", "--num-envs", "3", "--seconds", "0.05", "--rounds", "2")


def environment():
    """Without the variable that names a server: the command would measure that one."""
    return {name: value for name, value in os.environ.items() if name != "VECSERVER_URL"}


def run(*arguments):
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=60, env=environment())


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
            "vecserver shm",
            "vecserver tcp",
            "vecserver ipc",
        ]
        for subject in report["subjects"]:
            assert len(subject["rates"]) == report["rounds"] == 2
            assert 0 < subject["lowest"] <= subject["median"] <= subject["highest"]
            assert subject["first_batch_s"] > 0
            if subject["name"] != "ceiling":
                assert 0 < subject["p50_ms"] <= subject["p99_ms"]

    def test_ratios_are_of_rates_of_the_same_round(self, report):
        """Each ratio is the median of the rounds' ratios, not the ratio of the medians."""
        rates = {subject["name"]: subject["rates"] for subject in report["subjects"]}
        for subject in report["subjects"]:
            for other, found in (("ceiling", subject["of_ceiling"]), ("AsyncVectorEnv", subject["of_async"])):
                ratios = [a / b for a, b in zip(subject["rates"], rates[other], strict=True)]
                assert found == pytest.approx(statistics.median(ratios))

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
            assert (pool["engine"], len(pool["worker_rss_bytes"])) == ("envs", pool["workers"])
            assert min(pool["arena_bytes"], pool["host_rss_bytes"], *pool["worker_rss_bytes"]) > 0


def test_ctrl_c_ends_everything_without_a_word():
    """A terminal's Ctrl-C reaches the whole group: no process stays, and none prints a traceback."""
    options = ("--num-envs", "4", "--seconds", "30", "--transport", "ipc")
    command = subprocess.Popen(
        [*BENCH, *options], stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )
    with command:
        for line in command.stderr:
            if line == "warming up\n":
                break
        os.killpg(command.pid, signal.SIGINT)
        rest = command.stderr.read()
        assert command.wait(30) != 0
    assert "Traceback" not in rest


def test_an_unknown_environment_is_refused_before_anything_starts():
    """One line names the nearest ids."""
    done = run("--env", "Cartpole-v1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error [unknown_env]: ")
    assert done.stderr.count("\n") == 1


class TestCounting:
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


class TestTurns:
    class Recorder:
        def __init__(self, name, log):
            self.name, self.log = name, log

        def measure(self, seconds):
            self.log.append((self.name, seconds))
            return Sample(float(len(self.log)))

    def test_each_round_begins_with_the_next_subject(self):
        """Nobody is always the first, or always behind the same; the warm-up does not count."""
        log, said = [], []
        subjects = {name: self.Recorder(name, log) for name in "abc"}
        samples = compare.take_turns(subjects, 4, 2.0, said.append)
        assert [name for name, _ in log] == [*"abc", *"abc", *"bca", *"cab", *"abc"]
        assert [seconds for _, seconds in log] == [1.0] * 3 + [2.0] * 12
        assert {name: [s.steps_per_s for s in each] for name, each in samples.items()} == {
            "a": [4, 9, 11, 13],
            "b": [5, 7, 12, 14],
            "c": [6, 8, 10, 15],
        }
        assert said == ["warming up", *(f"round {i} of 4" for i in (1, 2, 3, 4))]


def reports(**rates):
    samples = {name: [Sample(rate, [1_000_000, 3_000_000]) for rate in each] for name, each in rates.items()}
    samples["ceiling"] = [Sample(sample.steps_per_s) for sample in samples["ceiling"]]
    return subject_reports(samples, dict.fromkeys(rates, 0.5))


MACHINE = {"cpu": "A CPU", "cores": 4, "affinity": [0, 2], "kernel": "Linux", "load_1m": 0.5}
POOL = PoolFacts("vecserver tcp", "envs", 2, 1.5, 4096, 50 << 20, [40 << 20, 41 << 20])


def made_up(subjects):
    return Report("CartPole-v1", 64, 1.0, 5, 2, subjects, [POOL], 70 << 20, MACHINE, {"vecserver": "1", "python": "3"})


class TestReport:
    def test_a_ratio_is_taken_within_a_round(self):
        """On a machine that slows down by half, a constant ratio stays what it is."""
        ceiling, pool, peer = reports(ceiling=[100, 50, 80], pool=[60, 30, 48], AsyncVectorEnv=[10, 5, 8])
        assert (ceiling.of_ceiling, ceiling.p50_ms) == (1.0, None)
        assert pool.of_ceiling == pytest.approx(0.6)
        assert pool.of_async == pytest.approx(6)
        assert peer.of_async == 1.0
        assert (pool.lowest, pool.median, pool.highest) == (30, 48, 60)
        assert (pool.p50_ms, pool.p99_ms) == (2.0, 3.0)

    def test_without_peers_there_is_no_ratio_to_them(self):
        """The other figures are there."""
        assert [subject.of_async for subject in reports(ceiling=[2.0], pool=[1.0])] == [None, None]

    def test_the_table_has_a_line_a_subject_and_the_facts_below(self, monkeypatch, capsys):
        """It fits a terminal of 80 columns up to a million steps a second."""
        monkeypatch.setenv("COLUMNS", "80")
        subjects = reports(ceiling=[999_999.0], AsyncVectorEnv=[12_345.0], **{"vecserver tcp": [500_000.0]})
        _print_report(made_up(subjects))
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "CartPole-v1 × 64, 5 rounds of 1 s"
        assert [line.split() for line in lines[4:7]] == [
            ["ceiling", "999,999", "999,999", "999,999", "–", "–", "1.000", "81.0"],
            ["AsyncVectorEnv", "12,345", "12,345", "12,345", "2.000", "2.980", "0.012", "1.0"],
            ["vecserver", "tcp", "500,000", "500,000", "500,000", "2.000", "2.980", "0.500", "40.5"],
        ]
        facts = {line[:13].strip(): line[15:] for line in lines[8:]}
        assert facts["machine"] == "A CPU, 4 cores, may use 0,2, load 0.5"
        assert facts["vecserver tcp"] == (
            "engine envs, workers 2, first batch after 0.50 s, arena 4 KiB, resident MiB: host 50, workers 40 + 41"
        )

    def test_the_page_of_results_has_a_table_a_case(self):
        """Markdown, with what was measured on in its first line."""
        cases = [made_up(reports(ceiling=[200.0], AsyncVectorEnv=[50.0])) for _ in range(2)]
        first, *lines = markdown(cases).splitlines()
        assert first == "A CPU, 4 cores (may use 2), Linux, vecserver 1, python 3"
        assert lines.count("## CartPole-v1 × 64") == 2
        assert lines.count("| :-- | --: | --: | --: | --: | --: | --: | --: |") == 2
        assert "| AsyncVectorEnv |      50 |  50 |  50 |  2.000 |  2.980 |      0.250 |     1.0 |" in lines


def test_a_subject_costs_no_processor_time_while_another_is_measured():
    """The ceiling's processes wait at a pipe, a pool's at their bells: no clock tick in a third of a second."""

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
        assert ticks(pids) - before <= 1


def test_a_process_of_the_ceiling_that_ends_is_an_error():
    """It is named, and the others are ended."""
    with Ceiling("CartPole-v1", 2) as ceiling:
        os.kill(ceiling.pids[0], signal.SIGKILL)
        with pytest.raises(WorkerDied, match="process of the ceiling ended"):
            ceiling.measure(0.01)


def test_the_counting_agrees_with_gymnasiums_own_environment():
    """A real vector environment is reset and stepped as any caller does."""
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    assert VectorSubject(envs, action_batches(envs.single_action_space, 2)).measure(0.01).steps_per_s > 0
    envs.close()
