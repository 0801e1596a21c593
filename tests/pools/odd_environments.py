"""Environments that are hard on a pool: they die, hang or differ while they are made, or have much to say.

A process that has not imported the module names them ``tests.pools.odd_environments:odd/Verbose-v0``, which
``odd("Verbose-v0")`` spells.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.environments import CountEnv, SlowEnv


def odd(name: str) -> str:
    """The id by which a process that has not imported this module can make ``name``."""
    return f"tests.pools.odd_environments:odd/{name}"


class VerboseEnv(CountEnv):
    """Infos of ``size`` bytes a row, frames of 3 · ``size`` bytes, and errors with ``size`` characters."""

    def __init__(self, *, size: int, fail_at: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._size, self._fail_at = size, fail_at

    def describe(self, action: Any) -> dict[str, Any]:
        if self.steps == self._fail_at:
            raise ValueError("!" * self._size)
        return {"blob": np.full(self._size, self.steps + self.identity, np.uint8)}

    def render(self) -> np.ndarray:
        return np.full((1, self._size, 3), self.identity, np.uint8)


class TalkativeEnv(CountEnv):
    """Prints a line of 200 characters in each step, and sees to it that it is written."""

    def step(self, action: Any) -> Any:
        sys.stdout.write("." * 199 + "\n")
        sys.stdout.flush()
        return super().step(action)


class LoggedEnv(CountEnv):
    """Writes into ``log`` that it was made, and closed; a step takes ``sleep_s``."""

    def __init__(self, log: str, *, sleep_s: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._log, self._sleep_s = Path(log), sleep_s
        self._note("made")

    def _note(self, what: str) -> None:
        with self._log.open("a") as log:
            log.write(f"{what}\n")

    def step(self, action: Any) -> Any:
        time.sleep(self._sleep_s)
        return super().step(action)

    def close(self) -> None:
        self._note("closed")
        super().close()


class DeadOnArrivalEnv(CountEnv):
    """Kills its process while it is made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        os.kill(os.getpid(), signal.SIGKILL)


class StuckEnv(CountEnv):
    """Blocks for ever while it is made; touches ``began`` before."""

    def __init__(self, *, began: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        Path(began).touch()
        threading.Event().wait()


class DrawingEnv(gym.Env):
    """Observes numbers from the generators of Python's and numpy's modules; touches ``ended`` when its process ends."""

    observation_space = spaces.Box(0, 1, (2,), np.float64)
    action_space = spaces.Discrete(1)

    def __init__(self, *, ended: str) -> None:
        atexit.register(Path(ended).touch)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.array([random.random(), np.random.random()]), {}  # noqa: NPY002 - what is tested


def _wait_for_ever() -> None:
    threading.Event().wait()


class ParentEnv(CountEnv):
    """Starts a process that runs for ever, which multiprocessing is to end with this one, and an executor's process."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        context = multiprocessing.get_context("fork")
        self._child = context.Process(target=_wait_for_ever, daemon=True)
        self._child.start()
        self._executor = ProcessPoolExecutor(1, context)
        self._executor.submit(os.getpid).result()


class StartingEnv(CountEnv):
    """Starts a program in a session of its own, and never ends it; its pid is in the file ``pids``.

    With ``first_waits`` the first that writes to the file is never ready.
    """

    def __init__(self, *, pids: str, own_session: bool = True, first_waits: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        process = subprocess.Popen(["sleep", "3600"], start_new_session=own_session)
        with Path(pids).open("a") as file:
            is_first = file.tell() == 0
            file.write(f"{process.pid}\n")
        if first_waits and is_first:
            _wait_for_ever()


class HeldEnv(SlowEnv):
    """``Slow`` that touches the file ``began`` before it waits for its gate; every row of it."""

    def __init__(self, *, began: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._began = Path(began)

    def spring(self) -> None:
        self._began.touch()
        super().spring()


class DifferentEnv(CountEnv):
    """The first that makes the file ``first`` has another observation space than all others."""

    def __init__(self, *, first: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        try:
            Path(first).touch(exist_ok=False)
        except FileExistsError:
            self.observation_space = spaces.Box(-np.inf, np.inf, (7,), np.float64)


class LongDoubleEnv(CountEnv):
    """Observes a number whose bits differ between machines."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.observation_space = spaces.Box(np.zeros(6, "g"), np.ones(6, "g"), dtype=np.longdouble)


class LongTextEnv(CountEnv):
    """Observes the text it is told, as often as the option says."""

    def __init__(self, *, times: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._times, self._text = times, ""
        self.observation_space = self.action_space = spaces.Text(10_000_000, min_length=0)

    def read(self, action: Any) -> tuple[float, int]:
        self._text = action
        return float(len(action)), len(action)

    def observe(self) -> Any:
        return self._text * self._times


class DyingEnv(CountEnv):
    """Ends its process the first time that a row with a seed comes to a place, and makes ``mark``: no other ends then.

    Args:
        mark: A file.
        where: ``step``, ``reset`` or ``touch``, a method.
        how: ``kill``, ``segfault``, ``exit`` (with 3) or ``hang``.
        seed: Of the row.
        **kwargs: As for ``CountEnv``.
    """

    def __init__(self, *, mark: str, where: str, how: str = "kill", seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._mark, self._where, self._how, self._seed = Path(mark), where, how, seed

    def _come_to(self, where: str) -> None:
        if where != self._where or self.identity != self._seed or self._mark.exists():
            return
        self._mark.touch()
        match self._how:
            case "hang":
                threading.Event().wait()
            case "exit":
                os._exit(3)
        os.kill(os.getpid(), signal.SIGSEGV if self._how == "segfault" else signal.SIGKILL)

    def step(self, action: Any) -> Any:
        self._come_to("step")
        return super().step(action)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed, options=options)
        self._come_to("reset")
        return result

    def touch(self) -> int:
        self._come_to("touch")
        return self.identity


class FragileEnv(CountEnv):
    """Cannot be made once the file ``mark`` is there."""

    def __init__(self, *, mark: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if Path(mark).exists():
            raise ValueError("no more of them")


class StubbornEnv(CountEnv):
    """Blocks for ever when it is closed."""

    def close(self) -> None:
        threading.Event().wait()


class NoisyEnv(CountEnv):
    """Prints when it is made."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        sys.stdout.write("made with a noise\n")


class GatedEnv(CountEnv):
    """Is not made before the file ``gate`` is there."""

    def __init__(self, *, gate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        pause = threading.Event()
        while not Path(gate).exists():
            pause.wait(0.002)


class FlakyEnv(CountEnv):
    """Cannot be made before the file ``flag`` is there."""

    def __init__(self, *, flag: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not Path(flag).exists():
            raise RuntimeError("something is not installed yet")


_CLASSES = (
    LoggedEnv,
    TalkativeEnv,
    VerboseEnv,
    DeadOnArrivalEnv,
    StuckEnv,
    DrawingEnv,
    ParentEnv,
    StartingEnv,
    HeldEnv,
    DifferentEnv,
    FlakyEnv,
    GatedEnv,
    LongDoubleEnv,
    LongTextEnv,
    NoisyEnv,
    StubbornEnv,
    DyingEnv,
    FragileEnv,
)
for _cls in _CLASSES:
    _id = f"odd/{_cls.__name__.removesuffix('Env')}-v0"
    if _id not in gym.registry:
        gym.register(_id, f"{__name__}:{_cls.__name__}", disable_env_checker=True)
