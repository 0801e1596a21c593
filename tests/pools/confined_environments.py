"""An environment that says what its process has, and takes what it is told to: named by ``CONFINED``."""

from __future__ import annotations

import json
import os
import resource
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CONFINED = "tests.pools.confined_environments:Confined-v0"
TAKE_MEMORY, TAKE_FILES, ABORT = 1, 2, 3
LIMITS = ("RLIMIT_AS", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_CORE")


class ConfinedEnv(gym.Env):
    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(4)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        looks = _LOOKS if options is None else {name: _LOOKS[name] for name in options["look"]}
        return 0, {"seen": json.dumps({name: look() for name, look in looks.items()})}

    def step(self, action: Any):
        if action == TAKE_MEMORY:
            np.ones(1 << 33, np.uint8)
        if action == TAKE_FILES:
            with ExitStack() as stack:
                for _ in range(100_000):
                    stack.enter_context(Path("/dev/null").open())
        if action == ABORT:
            os.abort()
        return 1, 0.0, False, False, {}


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in sorted(Path("/proc/self/fd").iterdir(), key=lambda path: int(path.name)):
        try:
            found[fd.name] = str(fd.readlink())
        except OSError:  # the folder's own, which is closed again
            continue
    return found


_LOOKS = {
    "descriptors": _descriptors,
    "variables": lambda: [*os.environ],
    "began_with": lambda: Path("/proc/self/environ").read_text(),
    "limits": lambda: {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
    "user": lambda: [os.getuid(), os.getgid(), os.getgroups(), os.environ.get("HOME")],
}

gym.register("Confined-v0", ConfinedEnv, disable_env_checker=True)
