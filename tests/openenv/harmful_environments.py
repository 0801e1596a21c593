"""Environments that misbehave in the ways that a session must survive, or name. Loaded by sessions' processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Harmful(gym.Env):
    """Does nothing, until it is asked to."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {"options": options}

    def step(self, action):
        return np.array([np.nan, np.inf], np.float32), 1.0, False, False, {"nan": float("nan"), "who": np.int64(1)}


class Raising(Harmful):
    def step(self, action):
        raise KeyError("in step")


class RaisingReset(Harmful):
    def reset(self, *, seed=None, options=None):
        if options:
            raise ValueError("in reset")
        return super().reset(seed=seed)


class RaisingInit(Harmful):
    def __init__(self):
        raise OSError("no display")


class Rewarding(Harmful):
    """Gives the rewards that it was made with, in turn."""

    def __init__(self, rewards=("nan", 2)):
        self._rewards = list(rewards)

    def step(self, action):
        reward = self._rewards.pop(0)
        reward = float(reward) if isinstance(reward, str) and reward != "words" else reward
        return np.zeros(2, np.float32), reward, False, False, {}


class Leaving(Harmful):
    def step(self, action):
        os._exit(3)


class LeavingAtOnce(Harmful):
    def __init__(self):
        os._exit(4)


class Killed(Harmful):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Stuck(Harmful):
    def step(self, action):
        time.sleep(3600)


class Starting(Harmful):
    """Starts a process in a session of its own, which nobody's signal to a group reaches; step kills its parent."""

    def __init__(self):
        self._process = subprocess.Popen(["sleep", "3600"], start_new_session=True)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {"pid": self._process.pid}

    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Forking(Killed):
    """Has a copy of its process, which holds all descriptors."""

    def __init__(self):
        self._pid = os.fork()
        if self._pid == 0:
            signal.pause()

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {"pid": self._pid}


class Babbling(Harmful):
    """Writes what is no answer wherever it can."""

    def step(self, action):
        for fd in range(3, 256):
            with contextlib.suppress(OSError):
                os.write(fd, b"\xff" * 64)


class Nested(Harmful):
    action_space = spaces.Dict(action=spaces.Discrete(2), force=spaces.Box(-1, 1, (2,), np.float32))
    observation_space = spaces.Dict(text=spaces.Text(5), pair=spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 0.5, False, True, {}


_CLASSES = (Harmful, Raising, RaisingReset, RaisingInit, Rewarding, Leaving, LeavingAtOnce, Killed, Stuck, Nested)
for _cls in (*_CLASSES, Starting, Forking, Babbling):
    if f"harmful/{_cls.__name__}-v0" not in gym.registry:
        gym.register(f"harmful/{_cls.__name__}-v0", f"{__name__}:{_cls.__name__}", disable_env_checker=True)
