"""One environment and the episode under way in it, as one OpenEnv client plays it. No sockets, no JSON text."""

from __future__ import annotations

import logging
import math
import uuid
from typing import Annotated, Any, Final, NoReturn

import gymnasium
import msgspec
import numpy as np
import orjson
from gymnasium.wrappers import TimeLimit

from vecserver.engine.base import fault_of
from vecserver.engine.limits import WorkerLimits
from vecserver.engine.make import EnvMaker
from vecserver.pools.pictures import RENDER_MODE, as_picture, to_png
from vecserver.pools.rules import TRUSTING, EnvRules
from vecserver.pools.sessions.about import about_env
from vecserver.pools.sessions.actions import describe_actions, to_action
from vecserver.pools.sessions.schemas import schemas
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.errors import EnvCreationFailed, EnvFault, InvalidSpec, ResetNeeded
from vecserver.wire.json_values import to_json, to_json_value

__all__ = ["NeedsOwnProcess", "Play", "PlayOptions", "ResetData"]

_log = logging.getLogger(__name__)

_HARMLESS: Final = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")
"""Gymnasium's environments in plain Python: they cannot crash, hang or fill their process if made as registered."""


class NeedsOwnProcess(Exception):
    """The environment that is to be played may not share a process."""


class PlayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every session of a server begins with.

    Attributes:
        env_id: The environment of whoever names none.
        render_mode: Passed to ``gymnasium.make``.
        max_steps: Steps after which an episode is truncated, where the environment's own limit does not come first.
        seed: The first reset without a seed takes it, the next one the number after it; None for fresh ones.
        rules: What may be played, and with which arguments.
        limits: Of each process that environments live in.
    """

    env_id: str = "CartPole-v1"
    render_mode: str | None = None
    max_steps: int | None = None
    seed: int | None = None
    rules: EnvRules = TRUSTING
    limits: WorkerLimits = WorkerLimits()


_MAX_SEED: Final = 2**63 - 1
"""The largest seed that JSON's readers keep exactly."""


class ResetData(msgspec.Struct, frozen=True, kw_only=True):
    """What a reset may say; what else a client sends along is not looked at, as OpenEnv's own server does it.

    Attributes:
        seed: Seed of the episode.
        episode_id: Its name; one is made up where none is given.
        env_id: Play this environment from now on.
        kwargs: Passed to ``gymnasium.make``.
        options: Passed to the environment's ``reset``.
    """

    seed: Annotated[int, msgspec.Meta(ge=0, le=_MAX_SEED)] | None = None
    episode_id: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    env_id: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    kwargs: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class _Made:
    """An environment that exists, and what it was made from.

    Raises:
        EnvCreationFailed: It could not be made.
    """

    def __init__(self, env_id: str, kwargs: dict[str, Any], options: PlayOptions) -> None:
        self.env_id, self.kwargs = env_id, kwargs
        others = dict(kwargs)
        self.render_mode = others.pop("render_mode", options.render_mode)
        try:
            self.env: gymnasium.Env[Any, Any] = EnvMaker(env_id, others, self.render_mode)()
            if options.max_steps is not None:
                self.env = TimeLimit(self.env, options.max_steps)
            self.max_steps = _least(options.max_steps, self.env.spec.max_episode_steps if self.env.spec else None)
            self.legal_actions = orjson.Fragment(to_json(describe_actions(self.env.action_space)))
        except Exception as error:
            fault = fault_of(0, error)
            raise EnvCreationFailed(
                f"{env_id} could not be made: {fault['type']}: {fault['message']}", faults=[fault]
            ) from error

    def close(self) -> None:
        """Close the environment; what it raises is reported, and nothing else: it is not wanted any more."""
        try:
            self.env.close()
        except Exception:  # noqa: BLE001 - an environment may raise anything
            _log.exception("%s raised while it was closed", self.env_id)

    def is_from(self, env_id: str, kwargs: dict[str, Any]) -> bool:
        return self.env_id == env_id and self.kwargs == kwargs


class Play:
    """Makes environments, resets and steps them, and counts.

    Args:
        options: What it begins with. Nothing is made before the first reset.
        shared: Whether others play in this process; then every method may raise NeedsOwnProcess, and has done nothing.
    """

    def __init__(self, options: PlayOptions, *, shared: bool = False) -> None:
        self._options = options
        self._shared = shared
        self._made: _Made | None = None
        self._seedless_resets = 0
        self._episode_id: str | None = None
        self._seed: int | None = None
        self._steps = 0
        self._total = 0.0
        self._under_way = False
        self._done = False

    def reset(self, data: ResetData) -> bytes:
        """Begin an episode.

        Returns:
            The JSON of an observation message's ``data``.

        Raises:
            UnknownEnv, ForbiddenEnv, InvalidSpec, CapExceeded, EnvCreationFailed: What it names cannot be played; the
                episode under way goes on.
            EnvFault: The environment's reset raised; no episode is under way.
        """
        made = self._make(data)
        self._under_way = self._done = False
        self._episode_id = data.episode_id if data.episode_id is not None else str(uuid.uuid4())
        self._seed, self._steps, self._total = self._next_seed(data.seed), 0, 0.0
        try:
            state, info = made.env.reset(seed=self._seed, options=data.options)
            answer = self._observation(made, state, None, info, terminated=False, truncated=False)
        except Exception as error:  # noqa: BLE001 - whatever an environment raises is data
            _raise_fault(f"{made.env_id} raised in reset", error)
        self._under_way = True
        return answer

    def step(self, action: Any) -> bytes:
        """Take one step.

        Args:
            action: JSON value, in any form that ``to_action`` takes.

        Returns:
            The JSON of an observation message's ``data``.

        Raises:
            ResetNeeded: No episode is under way.
            InvalidAction: The action is none; nothing was stepped.
            EnvFault: The environment raised, or gave a reward that is no number. In the latter case it has stepped.
        """
        made = self._made
        if made is None or not self._under_way:
            raise ResetNeeded("this episode is over: reset first" if self._done else "there is no episode: reset first")
        taken = to_action(made.env.action_space, action)
        try:
            state, reward, terminated, truncated, info = made.env.step(taken)
            terminated, truncated = bool(terminated), bool(truncated)
        except Exception as error:  # noqa: BLE001 - whatever an environment raises is data
            _raise_fault(f"{made.env_id} raised in step {self._steps + 1}", error)
        self._steps += 1
        self._done = terminated or truncated
        self._under_way = not self._done
        try:
            number = _finite(reward)
            self._total += number
            return self._observation(made, state, number, info, terminated=terminated, truncated=truncated)
        except Exception as error:  # noqa: BLE001 - what it returned is no result
            _raise_fault(f"{made.env_id} returned from step {self._steps} what is no result", error)

    def state(self) -> bytes:
        """The JSON of a state message's ``data``."""
        made = self._made
        return to_json(
            {
                "episode_id": self._episode_id,
                "step_count": self._steps,
                "env_id": made.env_id if made else self._options.env_id,
                "render_mode": made.render_mode if made else self._options.render_mode,
                "max_steps": made.max_steps if made else self._options.max_steps,
                "seed": self._seed,
                "episode_length": self._steps,
                "total_reward": self._total,
            }
        )

    def schema(self, env_id: str | None) -> bytes:
        """The JSON schemas of an environment's messages.

        Raises:
            UnknownEnv, ForbiddenEnv, InvalidSpec, EnvCreationFailed: There is no such environment.
        """
        env = self._make(ResetData(env_id=env_id)).env
        return to_json(schemas(env.action_space, env.observation_space))

    def frame(self) -> bytes:
        """What the environment looks like now, as PNG.

        Raises:
            ResetNeeded: There is no episode, nor was there one.
            InvalidSpec: The environment was made without a render mode, or renders no pictures.
            EnvFault: It raised.
        """
        made = self._made
        if made is None or self._episode_id is None:
            raise ResetNeeded("there is no episode: reset first")
        if made.render_mode != RENDER_MODE:
            raise InvalidSpec(
                f"{made.env_id} has render mode {made.render_mode!r}: reset with kwargs "
                f'{{"render_mode": "{RENDER_MODE}"}} to see it',
                field="render_mode",
            )
        try:
            rendered: Any = made.env.render()
        except Exception as error:  # noqa: BLE001 - whatever an environment raises is data
            _raise_fault(f"{made.env_id} raised in render", error)
        return to_png(as_picture(rendered, 0))

    def about(self, env_id: str) -> bytes:
        """What an environment may be made with, as the JSON of ``about_env``; it is not made.

        Raises:
            UnknownEnv, ForbiddenEnv, InvalidSpec, EnvCreationFailed: There is no such environment.
        """
        self._check(PoolSpec(env_id=env_id, num_envs=1))
        if self._shared and not _is_harmless(env_id, {}, self._options):
            raise NeedsOwnProcess
        try:
            return to_json(about_env(env_id))
        except Exception as error:
            fault = fault_of(0, error)
            raise EnvCreationFailed(
                f"{env_id} could not be loaded: {fault['type']}: {fault['message']}", faults=[fault]
            ) from error

    def close(self) -> None:
        """Close the environment."""
        if self._made is not None:
            self._made.close()

    def _make(self, data: ResetData) -> _Made:
        made = self._made
        env_id = data.env_id or (made.env_id if made else self._options.env_id)
        kwargs = data.kwargs
        if kwargs is None:
            kwargs = made.kwargs if made is not None and data.env_id is None else {}
        if made is not None and made.is_from(env_id, kwargs):
            return made
        self._check(PoolSpec(env_id=env_id, num_envs=1, env_kwargs=kwargs))
        if self._shared and not _is_harmless(env_id, kwargs, self._options):
            raise NeedsOwnProcess
        new = _Made(env_id, kwargs, self._options)
        self._made, self._under_way, self._done = new, False, False
        if made is not None:
            made.close()
        return new

    def _check(self, spec: PoolSpec) -> None:
        self._options.rules.check(spec)
        spec.check(Caps())

    def _next_seed(self, given: int | None) -> int | None:
        if given is not None or self._options.seed is None:
            return given
        self._seedless_resets += 1
        return self._options.seed + self._seedless_resets - 1

    def _observation(
        self, made: _Made, state: Any, reward: float | None, info: Any, *, terminated: bool, truncated: bool
    ) -> bytes:
        metadata = {"terminated": terminated, "truncated": truncated, "info": to_json_value(info)}
        if reward is None:
            metadata |= {"env_id": made.env_id, "seed": self._seed}
        return orjson.dumps(
            {
                "observation": {
                    "state": to_json_value(state),
                    "legal_actions": made.legal_actions,
                    "episode_length": self._steps,
                    "total_reward": self._total,
                    "metadata": metadata,
                },
                "reward": reward,
                "done": terminated or truncated,
                "metadata": metadata,
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )


def _is_harmless(env_id: str, kwargs: dict[str, Any], options: PlayOptions) -> bool:
    spec = gymnasium.registry.get(env_id)
    return (
        spec is not None
        and isinstance(spec.entry_point, str)
        and spec.entry_point.startswith(_HARMLESS)
        and not spec.additional_wrappers
        and not kwargs  # a map of a million squares, a window that waits for the next frame
        and options.render_mode is None
    )


def _finite(reward: Any) -> float:
    number = float(np.asarray(reward, dtype=np.float64).reshape(()))
    if not math.isfinite(number):
        raise ValueError(f"its reward is {number}, and a reward is a finite number")
    return number


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _raise_fault(what: str, error: Exception) -> NoReturn:
    fault = fault_of(0, error)
    raise EnvFault(f"{what}: {fault['type']}: {fault['message']}", faults=[fault]) from error
