"""The expected side: a vector environment in this process, and the environments that can be made here.

It is a ``SyncVectorEnv``; for the engine ``native`` it is the very vector environment that the engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from vecserver.cli.equality.script import Script
from vecserver.engine.finals import FinalCopies
from vecserver.engine.make import EnvMaker
from vecserver.wire.errors import InvalidSpec
from vecserver.wire.layout import assemble, leaf_spaces, leaf_values

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
        native: Whether the environment's own vector environment is what is right.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    num_envs: int
    steps: int
    seed: int
    native: bool = False

    def maker(self) -> EnvMaker:
        """Makes one environment exactly as a pool's worker does."""
        return EnvMaker(self.env_id, self.env_kwargs, None)


class _AsInAPool(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector environment with the dtypes of a pool: observations as their space says, rewards float64."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._cast(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        flags = (np.asarray(each).astype(np.bool_) for each in (terminated, truncated))
        return self._cast(observations), np.asarray(rewards).astype(np.float64), *flags, infos

    def _cast(self, observations: Any) -> Any:
        space = self.single_observation_space
        leaves = zip(leaf_spaces(space), leaf_values(space, observations), strict=True)
        parts = (part.astype(leaf.dtype) if isinstance(part, np.ndarray) else part for (_, leaf), part in leaves)
        return assemble(space, parts)


def local_envs(question: Question, autoreset_mode: str) -> VectorEnv[Any, Any, Any]:
    """Make the vector environment that is right. Close it.

    Raises:
        InvalidSpec: It is the environment's own, and there is none, or it has another autoreset mode.
    """
    make = question.maker()
    if question.native:
        envs = make.vector(question.num_envs, AutoresetMode(autoreset_mode))
        if envs.metadata.get("autoreset_mode") is AutoresetMode(autoreset_mode):
            return _AsInAPool(envs)
        envs.close()
        raise InvalidSpec(f"its vector environment has another autoreset mode than {autoreset_mode}")
    return SyncVectorEnv(
        [lambda: FinalCopies(make())] * question.num_envs, autoreset_mode=AutoresetMode(autoreset_mode)
    )


def sample_actions(question: Question) -> list[Any]:
    """The actions of a run: the same for every process, where a space's samples may depend on the process."""
    env = question.maker().vector(1, AutoresetMode.NEXT_STEP) if question.native else question.maker()()
    try:
        space = batch_space(getattr(env, "single_action_space", env.action_space), question.num_envs)
    finally:
        env.close()
    space.seed(question.seed)
    return [space.sample() for _ in range(question.steps)]


def script_for(question: Question, actions: Sequence[Any], autoreset_mode: str) -> Script:
    """The script of a run in an autoreset mode."""
    by_mask = autoreset_mode == AutoresetMode.DISABLED.value
    return Script(actions, question.num_envs, question.seed, by_mask=by_mask, as_one=question.native)


def try_out(question: Question) -> str | None:
    """Make one environment and step it a little: what it leaves in this process, a fresh process does not have.

    Returns:
        Why it cannot be made here; None where it can.
    """
    if question.native:
        return _without_a_mode(question)
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


def _without_a_mode(question: Question) -> str | None:
    """Why the environment's own vector environment cannot be made in any autoreset mode."""
    reason = None
    for mode in AutoresetMode:
        try:
            local_envs(question, mode.value).close()
        except Exception as error:  # noqa: BLE001 - as above
            reason = reason or _reason(error)
        else:
            return None
    return reason


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def families() -> list[str]:
    """The ids of every registered environment of classic control, toy text and Box2D."""
    return [env_id for env_id, spec in gymnasium.registry.items() if _family(spec) in _FAMILIES]


def _family(spec: EnvSpec) -> str:
    entry = spec.entry_point if isinstance(spec.entry_point, str) else ""
    return entry.removeprefix("gymnasium.envs.").partition(".")[0] if entry.startswith("gymnasium.envs.") else ""
