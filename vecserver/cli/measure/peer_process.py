"""One peer: ``python peer_process.py PARENT_PID NAME ENV_ID NUM_ENVS``, run by its path, by any interpreter.

Says in a line of JSON what it made, or why it could not. Then reads commands, a line each: the seconds of a round, and
the seconds between two batches where they are due at a fixed rate. Answers each with a line of JSON. Ends with stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import warnings
from contextlib import suppress
from importlib import metadata, util
from itertools import cycle
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from gymnasium.vector.utils import batch_space

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import gymnasium

__all__ = ["DISTRIBUTIONS", "main"]

_BATCHES: Final = 128
_PR_SET_PDEATHSIG: Final = 1

DISTRIBUTIONS: Final = {
    "sb3": "stable-baselines3",
    "pufferlib": "pufferlib-core",
    "envpool": "envpool",
    "rlmesh": "rlmesh",
    "openenv": "openenv",
}
"""Peers that are packages of their own, by name: what they are usually installed as."""

_MODULES: Final = {"sb3": "stable_baselines3"}
"""Those of them whose module is called otherwise."""


def _beside(name: str) -> Any:
    """A module of this folder: the package that it belongs to may not be installed here."""
    spec = util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)  # not registered, so that its functions are pickled by value
    return module


def _end_with_parent(parent: int) -> None:
    """Have the kernel say when the parent has ended, and end the group then: some peers' workers stay for ever."""
    owner = os.getpid()

    def end(_number: int, _frame: Any) -> None:
        if os.getpid() != owner:  # a copy of this process, that the peer ends by this signal
            os._exit(0)
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        end(0, None)


def _batches(env: gymnasium.Env[Any, Any], rows: int, seed: int) -> list[Any]:
    """The same actions as every other subject's."""
    batched = batch_space(env.action_space, rows)
    env.close()
    batched.seed(seed)
    return [batched.sample() for _ in range(_BATCHES)]


def main(name: str, env_id: str, rows: int, commands: Iterable[str]) -> None:
    """Answer every command on stdout.

    Args:
        name: Of the peer.
        env_id: A registered id.
        rows: Its rows.
        commands: As above.
    """
    # what a peer prints must not mix with the answers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers:
        adapters = _beside("adapters")
        try:
            version = _version(name)
            batches = _batches(adapters.make_env(env_id), rows, adapters.SEED)
            peer = adapters.ADAPTERS[name](env_id, rows, batches)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being made is for the report
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
            return
        answers.write(json.dumps({"setting": peer.setting, "version": version}) + "\n")
        try:
            _obey(peer, batches, commands, answers.write)
        finally:
            peer.close()


def _version(name: str) -> str:
    """What is installed of a peer: a fork of it, or one that was built here, may have another name, or none."""
    usual = DISTRIBUTIONS.get(name, "gymnasium")
    module = _MODULES.get(name, name if name in DISTRIBUTIONS else "gymnasium")
    installed = metadata.packages_distributions().get(module, [])
    if not installed:
        return f"{usual} of unknown version"
    distribution = usual if usual in installed else installed[0]
    return f"{distribution} {metadata.version(distribution)}"


def _obey(peer: Any, batches: list[Any], commands: Iterable[str], answer: Callable[[str], Any]) -> None:
    loops, actions = _beside("loops"), cycle(batches)
    for command in commands:
        seconds, *interval = map(float, command.split())
        loop = loops.paced_loop if interval else loops.closed_loop
        steps, batch_ns, took_ns, *due = loop(lambda: peer.step(next(actions)), *interval, seconds)
        sleep(peer.settle_s)  # the others are measured in quiet
        answer(json.dumps({"steps": steps, "batch_ns": batch_ns, "took_ns": took_ns, "due": due}) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent(int(sys.argv[1]))
    with suppress(BrokenPipeError):  # Ctrl-C has ended whoever asks, before it knew of this process
        main(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.stdin)
