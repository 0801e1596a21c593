from __future__ import annotations

import pytest

from vecserver.cli.measure import compare
from vecserver.cli.measure.display import print_report
from vecserver.cli.measure.peers import PeerFailed
from vecserver.cli.measure.question import Question
from vecserver.cli.measure.report import LeftOut, Measured, PoolFacts, Report, subject_reports, table
from vecserver.cli.measure.subjects import Sample
from vecserver.cli.measure.where import Part, WhereTimeGoes


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
        samples = compare.take_turns(subjects, 4, 2.0, said.append, [])
        assert [name for name, _ in log] == [*"abc", *"abc", *"bca", *"cab", *"abc"]
        assert [seconds for _, seconds in log] == [1.0] * 3 + [2.0] * 12
        assert {name: [s.steps_per_s for s in each] for name, each in samples.items()} == {
            "a": [4, 9, 11, 13],
            "b": [5, 7, 12, 14],
            "c": [6, 8, 10, 15],
        }
        assert said == ["warming up", *(f"round {i} of 4" for i in (1, 2, 3, 4))]

    def test_a_peer_that_fails_takes_no_further_turn(self):
        """The others have all of their rounds; the report says why it is missing."""

        class Failing(self.Recorder):
            def measure(self, seconds):
                if len(self.log) >= 4:
                    raise PeerFailed("it hangs")
                return super().measure(seconds)

        log, left_out = [], []
        subjects = {"a": self.Recorder("a", log), "b": Failing("b", log)}
        samples = compare.take_turns(subjects, 3, 1.0, lambda _: None, left_out)
        assert {name: len(each) for name, each in samples.items()} == {"a": 3}
        assert left_out == [LeftOut("b", "it hangs")]


class TestWhichPoolsAreAskedFor:
    def question(self, url):
        return Question(env_id="CartPole-v1", num_envs=2, seconds=1.0, rounds=1, workers=(1, 9), url=url)

    def test_a_private_server_is_not_asked_for_what_it_refuses(self):
        """Two rows have no nine workers: left out before anything starts."""
        left_out = []
        assert {choice.workers for choice in compare._possible(self.question(None), left_out)} == {1}
        assert len(left_out) == 3

    def test_another_server_judges_by_its_own_caps(self):
        """This machine's say nothing about it."""
        left_out = []
        choices = compare._possible(self.question("http://elsewhere"), left_out)
        assert {choice.workers for choice in choices} == {1, 9}
        assert left_out == []


def reports(**rates):
    samples = {name: [Sample(rate, [1_000_000, 3_000_000]) for rate in each] for name, each in rates.items()}
    samples["ceiling"] = [Sample(sample.steps_per_s) for sample in samples["ceiling"]]
    return subject_reports(samples, {name: Measured("pool") for name in rates})


MACHINE = {"cpu": "A CPU", "cores": 4, "affinity": [0, 2], "kernel": "Linux", "load_1m": 0.5}
POOL = PoolFacts("vecserver tcp", "tcp", "envs", 2, 0.25, 0.5, 4096, 50 << 20, [40 << 20, 41 << 20])


def made_up(subjects, **more):
    return Report(
        env_id="CartPole-v1",
        num_envs=64,
        seconds=1.0,
        rounds=5,
        ceiling_processes=2,
        subjects=subjects,
        pools=[POOL],
        server_rss_bytes=70 << 20,
        machine=MACHINE,
        versions={"vecserver": "1", "python": "3"},
        **more,
    )


class TestAFixedRate:
    def subject(self, begun):
        samples = {"pool": [Sample(100.0, [1_000_000] * 99 + [9_000_000], due=100, begun=begun)]}
        (subject,) = subject_reports(samples, {"pool": Measured("pool")})
        return subject, table(made_up([subject], rate=100.0))[1][0]

    def test_a_rate_that_was_kept_has_times(self):
        """One batch in a hundred may have waited when the round was over; its time counts."""
        subject, line = self.subject(begun=99)
        assert (subject.due, subject.begun, subject.kept, subject.max_ms) == (100, 99, True, 9.0)
        assert [cell.strip() for cell in line] == ["pool", "100", "99 of 100", "yes", "1.00", "1.00", "1.08", "9.00"]

    def test_one_that_was_not_has_none(self):
        """They would say how long the round was."""
        subject, line = self.subject(begun=98)
        assert (subject.kept, subject.p99_ms) == (False, None)
        assert [cell.strip() for cell in line] == ["pool", "100", "98 of 100", "no", "–", "–", "–", "–"]


class TestReport:
    def test_a_ratio_is_taken_within_a_round(self):
        """On a machine that slows down by half, a constant ratio stays what it is."""
        ceiling, pool, peer = reports(ceiling=[100, 50, 80], pool=[60, 30, 48], AsyncVectorEnv=[10, 5, 8])
        assert (ceiling.of_ceiling, ceiling.p50_ms) == (1.0, None)
        assert pool.of_ceiling == pytest.approx(0.6)
        assert pool.of_ceiling_rounds == pytest.approx((0.6, 0.6))
        assert pool.of_async == pytest.approx(6)
        assert peer.of_async == 1.0
        assert (pool.lowest, pool.median, pool.highest) == (30, 48, 60)
        assert (pool.p50_ms, pool.p90_ms, pool.p99_ms, pool.max_ms) == (2.0, 3.0, 3.0, 3.0)

    def test_a_round_without_a_step_loses_its_ratio_and_not_the_report(self):
        """A slow environment may only have been reset in it."""
        ceiling, pool = reports(ceiling=[100.0, 100.0, 100.0], pool=[50.0, 40.0, 0.0], AsyncVectorEnv=[0.0, 10.0, 0.0])[
            :2
        ]
        assert (pool.of_ceiling, pool.of_ceiling_rounds) == (0.4, (0.0, 0.5))
        assert (pool.of_async, pool.of_async_rounds) == (4, (4, 4))
        still = reports(ceiling=[100.0], pool=[0.0], AsyncVectorEnv=[0.0])
        assert [subject.of_async for subject in still] == [None] * 3
        assert [line[2].strip() for line in table(made_up(still))[1]] == ["0%", "–", "–"]

    def test_without_peers_there_is_no_ratio_to_them(self):
        """The other figures are there."""
        assert [subject.of_async for subject in reports(ceiling=[2.0], pool=[1.0])] == [None, None]

    def test_the_table_has_a_line_a_subject_and_the_facts_below(self, monkeypatch, capsys):
        """It fits a terminal of 80 columns up to a million steps a second."""
        monkeypatch.setenv("COLUMNS", "80")
        subjects = reports(
            ceiling=[999_999.0, 999_999.0], AsyncVectorEnv=[12_345.0] * 2, **{"vecserver tcp": [450_000.0, 550_000.0]}
        )
        print_report(made_up(subjects, left_out=[LeftOut("RLMesh", "it fell over")], not_installed=["envpool", "sb3"]))
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "CartPole-v1 × 64, 5 rounds of 1 s"
        assert [line.split() for line in lines[4:7]] == [
            ["ceiling", "999,999", "0%", "–", "–", "–", "1.000", "0.00", "81.0", "0.0"],
            ["AsyncVectorEnv", "12,345", "0%", "2.00", "3.00", "3.00", "0.012", "0.00", "1.0", "0.0"],
            ["vecserver", "tcp", "500,000", "10%", "2.00", "3.00", "3.00", "0.500", "0.05", "40.5", "4.1"],
        ]
        facts = {line[:13].strip(): line[15:] for line in lines[8:]}
        assert facts["machine"] == "A CPU, 4 cores, may use 0,2, load 0.5"
        assert facts["vecserver tcp"] == (
            "engine envs, workers 2, first batch after 0.50 s, arena 4 KiB, resident MiB: host 50, workers 40 + 41"
        )
        assert facts["RLMesh"] == "not measured: it fell over"
        assert facts["not installed"] == (
            "EnvPool (envpool), SubprocVecEnv (stable-baselines3); where another interpreter has one: --peer NAME=PYTHON"
        )

    def test_where_the_time_goes_is_a_column_a_pool(self, monkeypatch, capsys):
        """The parts stand above the batch that they sum to, and how each was found beside them."""
        monkeypatch.setenv("COLUMNS", "80")
        parts = [Part("client", 30.0, 30.0, "measured"), Part("workers", 70.0, 70.0, "remainder")]
        print_report(
            made_up(
                reports(ceiling=[2.0], **{"vecserver tcp": [1.0]}),
                where=[WhereTimeGoes("vecserver tcp", 397, 100.0, parts, 3)],
            )
        )
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        start = lines.index(["part", "vecserver", "tcp", "found"])
        assert lines[start + 1 : start + 5] == [
            ["client", "30.0", "30%", "measured"],
            ["workers", "70.0", "70%", "remainder"],
            ["batch", "100.0", "100%", "measured"],
            ["left", "out", "3", "of", "400", "contradictory"],
        ]
