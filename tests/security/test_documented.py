"""docs/security.md names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_defence_names_a_test_that_there_is():
    """The last column of the table is a file and a function in it."""
    table = (ROOT / "docs/security.md").read_text().partition("## Attacks")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 10
    for attack, _, named in rows:
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", named)
        assert tests, f"no test against {attack}"
        for path, name in tests:
            assert f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"
