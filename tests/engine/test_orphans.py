"""No child outlives its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.pools.processes import Watched
from vecserver.engine.orphans import die_with_parent

CHILD = """
import os, signal, sys
from vecserver.engine.orphans import die_with_parent
die_with_parent(int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid())
print(os.getpid(), flush=True)
signal.pause()
"""
PARENT = f"""
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", {CHILD!r}])
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_child_is_killed_with_its_parent(number):
    """The kernel sees to it: a parent that is killed has no chance to."""
    with (
        subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent,
        Watched(int(parent.stdout.readline())) as child,
    ):
        parent.send_signal(number)
        assert not child.running()


def test_a_child_whose_parent_is_gone_already_ends_at_once():
    """A parent may die between the start of its child and the child's first call."""
    child = subprocess.run([sys.executable, "-c", CHILD, "1"], check=False, capture_output=True, timeout=30)
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, b"")


def test_the_parent_itself_is_left_alone():
    """Called in the parent, it does nothing."""
    die_with_parent(os.getpid())
