from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.cli.measure.test_report import MACHINE
from vecserver.cli import main
from vecserver.cli.measure import plot
from vecserver.cli.measure.report import Measured, PoolFacts, Report, subject_reports
from vecserver.cli.measure.subjects import Sample

PNG = b"\x89PNG\r\n\x1a\n"


def report(num_envs, workers=(2,), env_id="CartPole-v1"):
    samples = {"ceiling": [Sample(3e5)], "AsyncVectorEnv": [Sample(2e4, [1])]}
    measured = {name: Measured("ceiling" if name == "ceiling" else "peer") for name in samples}
    pools = []
    for count in workers:
        name = f"vecserver shm w{count}"
        samples[name], measured[name] = [Sample(1e3 * num_envs * count, [1])], Measured("pool")
        pools.append(PoolFacts(name, "shm", "envs", count, 1.0, 1.5, 1, 1, [1] * count))
    return Report(
        env_id=env_id,
        num_envs=num_envs,
        seconds=1.0,
        rounds=1,
        ceiling_processes=2,
        subjects=subject_reports(samples, measured),
        pools=pools,
        server_rss_bytes=None,
        machine=MACHINE,
        versions={},
    )


def bench(monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["vecserver", "bench", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr()


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    """Before anything is measured, in one line."""
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    code, said = bench(monkeypatch, capsys, "--plot", str(tmp_path / "x.png"))
    assert (code, said.out) == (1, "")
    assert said.err == "error [local_error]: --plot needs Matplotlib: pip install 'vecserver[plot]'\n"


def test_a_folder_that_is_not_there_is_found_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    """Ten minutes later would be too late."""
    monkeypatch.setattr(plot, "find_spec", lambda name: object())
    code, said = bench(monkeypatch, capsys, "--plot", str(tmp_path / "no" / "x.png"))
    assert (code, said.out) == (1, "")
    assert "there is no folder" in said.err


@pytest.mark.parametrize(
    ("name", "why"), [("x.xyz", "a picture's name ends in .png"), ("x.png", "it cannot be written")]
)
def test_a_file_that_cannot_be_drawn_is_found_before_anything_is_measured(monkeypatch, capsys, tmp_path, name, why):
    """No such format, or a folder in its place."""
    monkeypatch.setattr(plot, "find_spec", lambda name: object())
    (tmp_path / "x.png").mkdir()
    code, said = bench(monkeypatch, capsys, "--plot", str(tmp_path / name))
    assert (code, said.out) == (1, "")
    assert why in said.err


class TestWhatIsDrawn:
    def test_rates_over_rows_are_a_line_a_subject(self):
        """In the order of the rows."""
        lines = plot._over_rows([report(4), report(16)])
        assert {name: [(x, subject.median) for x, subject in points] for name, points in lines.items()} == {
            "ceiling": [(4, 3e5), (16, 3e5)],
            "AsyncVectorEnv": [(4, 2e4), (16, 2e4)],
            "vecserver shm w2": [(4, 8e3), (16, 3.2e4)],
        }

    def test_rates_over_workers_are_a_line_of_pools_that_differ_in_them_alone(self):
        """The ceiling and AsyncVectorEnv are level."""
        lines = plot._over_workers(report(4, workers=(4, 1, 2)))
        assert {name: [(x, subject.median) for x, subject in points] for name, points in lines.items()} == {
            "ceiling": [(1, 3e5), (4, 3e5)],
            "AsyncVectorEnv": [(1, 2e4), (4, 2e4)],
            "vecserver shm": [(1, 4e3), (2, 8e3), (4, 1.6e4)],
        }

    def test_what_was_left_to_be_chosen_is_a_line_of_its_own(self):
        """It may be what another pool was asked for, and one line would have two points there."""
        asked = [("shm envs w2", "envs", 2), ("shm auto w2", "envs", 2), ("shm envs auto", "envs", 2)]
        asked += [("shm envs w1", "envs", 1), ("shm envs w2 ÷2", "envs", 2)]
        samples = {f"vecserver {name}": [Sample(1e3, [1])] for name, _, _ in asked}
        pools = [PoolFacts(f"vecserver {name}", "shm", engine, n, 1.0, 1.5, 1, 1, [1]) for name, engine, n in asked]
        subjects = subject_reports(samples, dict.fromkeys(samples, Measured("pool")))
        lines = plot._over_workers(replace(report(4), subjects=subjects, pools=pools))
        assert {name: [x for x, _ in points] for name, points in lines.items()} == {
            "vecserver shm envs": [1, 2],
            "vecserver shm auto": [2],
            "vecserver shm envs auto": [2],
            "vecserver shm envs ÷2": [2],
        }

    def test_the_file_is_a_picture(self, tmp_path):
        """A panel for the rows and one for the workers, an environment each: of 7 × 4 inches at 130 dots."""
        pytest.importorskip("matplotlib")
        code = (  # in a process of its own: Matplotlib keeps a font open
            "import sys, pathlib; from tests.cli.measure.test_plot import report; from vecserver.cli.measure import plot\n"
            "plot.draw([report(4, (1, 2)), report(8, (1, 2)), report(4, (1, 2), 'Acrobot-v1')], pathlib.Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "x.png"], check=True, timeout=60)
        data = (tmp_path / "x.png").read_bytes()
        assert data.startswith(PNG)
        assert struct.unpack(">II", data[16:24]) == (2 * 7 * 130, 2 * 4 * 130)

    def test_nothing_else_loads_matplotlib(self):
        """It takes a third of a second."""
        pytest.importorskip("matplotlib")
        code = "import sys, vecserver.cli.measure.matrix, vecserver.cli.measure.plot; assert 'matplotlib' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
