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


KEEPER = """
import os, signal, subprocess, sys
from vecserver.engine.orphans import Orphans
orphans = Orphans()
own = subprocess.Popen(["sleep", "3600"])
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
left = child.stdout.readline().decode()
print(own.pid, left.strip(), flush=True)
sys.stdin.readline()
child.kill()
child.wait()
orphans.end_all([own.pid])
print("ended", flush=True)
signal.pause()
"""
LEAVING = """
import subprocess, sys, signal
from vecserver.engine.orphans import keep_orphans
keep_orphans()
deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
stubborn = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True)
stubborn.stdout.readline()
daemon = subprocess.run(["sh", "-c", "sleep 3600 > /dev/null & echo $!"], stdout=subprocess.PIPE).stdout.decode()
print(stubborn.pid, daemon.strip(), flush=True)
signal.pause()
"""


def test_what_a_killed_child_leaves_is_ended():
    """What is in a session of its own and deaf to SIGTERM, and what was a daemon before; other children stay."""
    command = [sys.executable, "-c", KEEPER, LEAVING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        own, *left = map(int, keeper.stdout.readline().split())
        with Watched(own, *left) as watched:
            assert len(left) == 2
            keeper.stdin.write(b"\n")
            keeper.stdin.flush()
            assert keeper.stdout.readline() == b"ended\n"
            assert watched.running(0) == [own]
            watched.signal(own, signal.SIGKILL)
        keeper.kill()
