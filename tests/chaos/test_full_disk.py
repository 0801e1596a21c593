"""A disk that is full: stepping goes on, what would have to be kept is refused, and logs say what they lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import leaks
from tests.chaos.full_disk import endure
from tests.chaos.small_disk import server_on_a_small_disk, why_not


@pytest.mark.slow
def test_a_full_disk_keeps_nobody_from_stepping():
    """Files, logs and durable pools of a server lie on it; it ends with status 0."""
    if reason := why_not():
        pytest.skip(f"no disk of its own for a server here: {reason}")
    with server_on_a_small_disk(Path(os.environ[leaks.RUNTIME_DIR]) / "disk") as disk:
        endured = endure(disk)
    assert "pools.sqlite" in endured.refusal
