"""``vecserver bench --autotune``: numbers of workers in turns, and which one creation picks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from vecserver.cli.measure.autotune import COLUMNS, Candidate, Search, candidates, table_rows


@pytest.mark.parametrize(
    ("rows", "cores", "numbers"),
    [(64, 1, [1]), (64, 2, [1, 2]), (64, 6, [1, 2, 4, 6]), (3, 16, [1, 2, 3]), (64, 16, [1, 2, 4, 8, 16])],
)
def test_candidates_double_up_to_a_core_and_a_row_each(rows, cores, numbers):
    """The most of all is among them."""
    assert candidates(rows, cores) == numbers


def test_the_table_compares_medians():
    """With the best, and says which one a pool gets by itself."""
    found = Search(
        "Env-v0", 8, "shm", 2, 1, [Candidate(1, [900.0, 1000.0, 9000.0]), Candidate(2, [500.0], picked=True)]
    )
    assert table_rows(found) == [("1", "1,000", "1.000", "1.00", ""), ("2", "500", "2.000", "0.50", "yes")]
    assert len(COLUMNS) == len(table_rows(found)[0])


def test_the_search_measures_every_candidate():
    """At a server of its own, which is gone afterwards."""
    command = [
        sys.executable,
        "-m",
        "vecserver",
        "bench",
        "--autotune",
        "-n",
        "3",
        "--seconds",
        "0.02",
        "--rounds",
        "2",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "VECSERVER_URL"}
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    numbers = [each["workers"] for each in found["candidates"]]
    assert numbers == candidates(3, len(os.sched_getaffinity(0)))
    assert all(len(each["rates"]) == 2 and min(each["rates"]) > 0 for each in found["candidates"])
    assert [each["workers"] for each in found["candidates"] if each["picked"]] == [found["picked"]]
    assert found["best"] in numbers
