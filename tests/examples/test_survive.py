"""The demonstration that a training run goes on whatever is killed: in short, and what its journal makes of a death."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "survive.py"


@pytest.mark.slow
def test_a_run_survives_workers_network_and_trainer():
    """Each is killed at least once; what was learned is the undisturbed run's, to the bit."""
    done = subprocess.run([sys.executable, PROGRAM, "--updates", "20"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "the same, to the bit"
    assert all(what in done.stdout for what in ("killed worker", "killed the network", "killed the trainer"))
    assert "2 lives" in done.stdout


def test_a_journal_forgets_what_was_cut_off(tmp_path, monkeypatch):
    """An entry that a killed trainer has written in part is none, and the next one takes its place."""
    monkeypatch.syspath_prepend(PROGRAM.parent)
    survive = importlib.import_module("survive")
    first, second = (survive.Batch((number,), ()) for number in (1, 2))
    journal = survive.Journal(tmp_path)
    journal.save(3, {"update": 3}, "a")
    journal.note(first, "b")
    journal.note(second, "c")
    journal.close()
    log = tmp_path / "3.batches"
    whole = log.read_bytes()
    log.write_bytes(whole[:-1])
    for token, batches in (("b", [first]), ("c", [first, second])):
        again = survive.Journal(tmp_path)
        assert (again.token, [*again.batches], again.state["update"]) == (token, batches, 3)
        again.note(second, "c")
        again.close()
    assert log.read_bytes().startswith(whole)
