"""``vecserver bench`` as its tests run it: small and short."""

from __future__ import annotations

import os
import subprocess
import sys

BENCH = (sys.executable, "-m", "vecserver", "bench")
TINY = ("--env", "CartPole-v1", "--num-envs", "3", "--seconds", "0.05", "--rounds", "2")


def environment():
    """Without the variable that names a server: the command would measure that one."""
    return {name: value for name, value in os.environ.items() if name != "VECSERVER_URL"}


def run(*arguments):
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=60, env=environment())
