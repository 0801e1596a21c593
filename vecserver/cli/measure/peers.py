"""The peers that a comparison measures: which there are, and each in a process of its own.

Their dependencies conflict, with each other's and with these: what is not installed here may be installed elsewhere.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from vecserver.cli.measure.line_process import LineProcess
from vecserver.cli.measure.peer_process import DISTRIBUTIONS
from vecserver.cli.measure.subjects import Sample
from vecserver.wire.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

__all__ = [
    "ASYNC",
    "NATIVE",
    "PACKAGES",
    "Chosen",
    "PeerFailed",
    "PeerSubject",
    "chosen_peers",
    "not_installed",
    "parse_interpreters",
    "title_of",
]

ASYNC: Final = "AsyncVectorEnv"

NATIVE: Final = "vector env in process"

_GYMNASIUM: Final = {"async": ASYNC, "sync": "SyncVectorEnv", "native": NATIVE}

PACKAGES: Final = {
    "sb3": ("SubprocVecEnv", "stable_baselines3"),
    "pufferlib": ("PufferLib", "pufferlib"),
    "envpool": ("EnvPool", "envpool"),
    "rlmesh": ("RLMesh", "rlmesh"),
    "openenv": ("OpenEnv", "openenv"),
}
"""Peers that are packages of their own: name → what it is called in a report, and the module that it has."""

_MAKE_S: Final = 120.0
_SLACK_S: Final = 30.0
"""Seconds that a round may take beyond its own: some peers hang for ever when an environment raises."""


class PeerFailed(Exception):
    """A peer could not be made or measured; says why."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Peers to measure, and those that are not to be had.

    Attributes:
        interpreters: Name → the interpreter that has it.
        missing: Names of those that none has.
    """

    interpreters: dict[str, str]
    missing: list[str]


def parse_interpreters(texts: Iterable[str]) -> dict[str, str]:
    """Read ``NAME=/path/to/python``.

    Raises:
        LocalError: Not of this form, no such peer, or no such program.
    """
    interpreters = {}
    for text in texts:
        name, _, path = text.partition("=")
        if name not in PACKAGES:
            raise LocalError(f"--peer {text}: no peer is called {name!r}, only {', '.join(PACKAGES)}, as NAME=PYTHON")
        if not os.access(path, os.X_OK) or not Path(path).is_file():
            raise LocalError(f"--peer {text}: {path or 'nothing'} is no program; give the interpreter that has {name}")
        interpreters[name] = path
    return interpreters


def chosen_peers(interpreters: Mapping[str, str], *, native: bool = False) -> Chosen:
    """All peers that are installed in this interpreter or are said to be in another.

    Args:
        interpreters: What ``parse_interpreters`` gave.
        native: Whether the environment's own vector environment is one, as it is beside pools with that engine.
    """
    found = {name: sys.executable for name in _GYMNASIUM if native or name != "native"}
    missing = []
    for name, (_, module) in PACKAGES.items():
        if name in interpreters:
            found[name] = interpreters[name]
        elif find_spec(module) is not None:
            found[name] = sys.executable
        else:
            missing.append(name)
    return Chosen(found, missing)


def title_of(name: str) -> str:
    """What a peer is called in a report."""
    return _GYMNASIUM.get(name) or PACKAGES[name][0]


def not_installed(names: Iterable[str]) -> str:
    """One line about peers that are not to be had."""
    packages = ", ".join(f"{title_of(name)} ({DISTRIBUTIONS[name]})" for name in names)
    return f"{packages}; where another interpreter has one: --peer NAME=PYTHON"


class PeerSubject:
    """A peer in its process. As ``Subject``, and a context manager.

    Args:
        name: The peer.
        interpreter: What runs it.
        env_id: A registered id.
        num_envs: Rows.
        interval: Seconds between two batches, where they are due at a fixed rate.

    Raises:
        PeerFailed: It could not be made.
    """

    def __init__(self, name: str, interpreter: str, env_id: str, num_envs: int, interval: float | None = None) -> None:
        self._interval = interval
        self._rows = num_envs
        program = Path(__file__).with_name("peer_process.py")
        command = [interpreter, str(program), str(os.getpid()), name, env_id, str(num_envs)]
        self._process = LineProcess(command, _environment(interpreter))
        try:
            made = self._answer(_MAKE_S)
        except BaseException:
            self._process.close()
            raise
        self.setting = f"{made['version']}, {made['setting']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._process.close()

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    def measure(self, seconds: float) -> Sample:
        """Step for so long.

        Raises:
            PeerFailed: It ended, or does not answer. Nothing of it is left then.
        """
        self._process.ask(f"{seconds}" if self._interval is None else f"{seconds} {self._interval}")
        try:
            done = self._answer(seconds + _SLACK_S)
        except PeerFailed:
            self._process.close()  # one that hangs may spin, on a core that the others are measured on
            raise
        return Sample(done["steps"] * 1e9 / done["took_ns"], done["batch_ns"], *done["due"])

    def _answer(self, timeout: float) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._process.answer(timeout))
        except EOFError:
            raise PeerFailed("its process ended; what it says is above") from None
        except TimeoutError:
            raise PeerFailed(f"it did not answer within {timeout:g} s") from None
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer


def _environment(interpreter: str) -> dict[str, str]:
    """This process's, without what would show another interpreter the modules of this one."""
    env = {**os.environ, "PYTHONSAFEPATH": "1"}
    if interpreter != sys.executable:
        env.pop("PYTHONPATH", None)
    return env
