"""The expected side: a ``SyncVectorEnv`` in this process, and the environments that can be made here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gymnasium
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from vecserver.cli.equality.script import Script
from vecserver.engine.finals import FinalCopies
from vecserver.engine.make import EnvMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gymnasium.envs.registration import EnvSpec

__all__ = ["Question", "families", "local_envs", "sample_actions", "script_for", "try_out"]

_FAMILIES: Final = ("classic_control", "toy_text", "box2d")
"""The modules of Gymnasium whose environments ``--all`` stands for."""

_TRIED_STEPS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is compared.

    Attributes:
        env_id: As a pool takes it.
        env_kwargs: As a pool takes them.
        num_envs: Rows.
        steps: Steps of a run.
        seed: Of the actions and of the first reset.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    num_envs: int
    steps: int
    seed: int

    def maker(self) -> EnvMaker:
        """Makes one environment exactly as a pool's worker does."""
        return EnvMaker(self.env_id, self.env_kwargs, None)


def local_envs(question: Question, autoreset_mode: str) -> SyncVectorEnv[Any, Any]:
    """Make the vector environment that is right. Close it."""
    make = question.maker()
    return SyncVectorEnv(
        [lambda: FinalCopies(make())] * question.num_envs, autoreset_mode=AutoresetMode(autoreset_mode)
    )


def sample_actions(question: Question) -> list[Any]:
    """The actions of a run: the same for every process, where a space's samples may depend on the process."""
    env = question.maker()()
    try:
        space = batch_space(env.action_space, question.num_envs)
    finally:
        env.close()
    space.seed(question.seed)
    return [space.sample() for _ in range(question.steps)]


def script_for(question: Question, actions: Sequence[Any], autoreset_mode: str) -> Script:
    """The script of a run in an autoreset mode."""
    by_mask = autoreset_mode == AutoresetMode.DISABLED.value
    return Script(actions, question.num_envs, question.seed, by_mask=by_mask)


def try_out(question: Question) -> str | None:
    """Make one environment and step it a little: what it leaves in this process, a fresh process does not have.

    Returns:
        Why it cannot be made here; None where it can.
    """
    try:
        env = question.maker()()
    except Exception as error:  # noqa: BLE001 - a constructor may raise anything
        return _reason(error)
    try:
        env.reset(seed=question.seed + 1)
        env.action_space.seed(question.seed + 1)
        for _ in range(_TRIED_STEPS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
    except Exception as error:  # noqa: BLE001 - and so may its methods
        return _reason(error)
    finally:
        env.close()
    return None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def families() -> list[str]:
    """The ids of every registered environment of classic control, toy text and Box2D."""
    return [env_id for env_id, spec in gymnasium.registry.items() if _family(spec) in _FAMILIES]


def _family(spec: EnvSpec) -> str:
    entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
    return entry.removeprefix("gymnasium.envs.").partition(".")[0] if entry.startswith("gymnasium.envs.") else ""
