"""Checks a coverage report: every branch of the wire, and an honest floor for the rest.

usage: coverage_gate.py .coverage.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Child processes (workers, hosts, servers) are measured too; what a SIGKILL ends reports nothing.
FLOORS = {"vecserver/wire/": 100.0, "vecserver/arena/": 95.0, "vecserver/": 93.0, "clients/": 90.0}


def covered(files: dict, prefix: str) -> float:
    """Percentage of statements and branches under a path that were run."""
    hit = total = 0
    for name, report in files.items():
        if name.startswith(prefix):
            summary = report["summary"]
            hit += summary["covered_lines"] + summary["covered_branches"]
            total += summary["num_statements"] + summary["num_branches"]
    return 100.0 * hit / total if total else 0.0


def main(path: str) -> int:
    """Print a line a folder; returns 1 when one is below its floor."""
    files = json.loads(Path(path).read_text())["files"]
    failed = False
    for prefix, floor in FLOORS.items():
        share = covered(files, prefix)
        low = share < floor
        failed |= low
        sys.stdout.write(
            f"{prefix:<18} {share:6.2f} % of lines and branches, floor {floor:g} %{'  TOO LOW' if low else ''}\n"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
