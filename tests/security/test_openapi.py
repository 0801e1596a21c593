"""The short form of what ``make security`` does with a server that runs: an app, and a few requests of each kind."""

from __future__ import annotations

import subprocess
import sys

EXAMPLES = 6


def test_every_answer_is_one_that_the_document_has():
    """Right and wrong requests to every operation: no error of the server, no status or body without a description."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.security.app_contract", str(EXAMPLES)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    count, *failures = done.stdout.splitlines()
    assert int(count) > 50
    assert not failures, "\n".join(failures)
