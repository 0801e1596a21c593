"""The engines ``async`` and ``sync``: Gymnasium's own vector environments, whole, in one worker.

``async`` is the reference that the others are compared with. Its known traps are kept away from the pool: what an
environment raises is turned into a picklable carrier inside the environment's process (Gymnasium hangs for ever on an
exception that cannot be pickled), what of its infos cannot travel is left out there, rewards of shape (1,)
become numbers, and after a fault the vector environment is made again at the next reset.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from vecserver.engine.base import EngineInfo, RowFaults, attribute_of, fault_of
from vecserver.engine.episodes import EpisodeStatistics
from vecserver.engine.finals import FinalCopies
from vecserver.engine.infos import ALL_INFOS, InfoOptions, claims_of_episode, key_filter
from vecserver.engine.orphans import die_with_parent
from vecserver.engine.rows import side_rows, write_aside
from vecserver.wire.infos import encode_merged, travelling
from vecserver.wire.layout import leaf_values
from vecserver.wire.side import SideLeaves
from vecserver.wire.spaces import refuse_differing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gymnasium import spaces

    from vecserver.engine.base import ResetCommand, Shard

__all__ = ["AsyncEngine", "SyncEngine"]

_log = logging.getLogger(__name__)

_DROPPED: Final = "vecserver.dropped"
"""The info under which a row's process names, as JSON, what it left out of its infos."""
_CALL_ROWS: Final = "__call_rows__"
_ASSIGN_ROWS: Final = "__assign_rows__"
"""By these names the wrapper around each row, which knows its number, is called itself."""
_ROW_OPTIONS: Final = "vecserver.row_options"
"""The option with which Gymnasium gives every row the options of all of them."""


class _RowRaised(Exception):
    """Carries a fault out of an environment's process as one string of JSON."""


class _FaultCarrier(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Outermost wrapper of a row: every exception leaves it as ``_RowRaised``, and of infos what is to be sent."""

    def __init__(self, env: gymnasium.Env[Any, Any], row: int, keys: frozenset[str] | None) -> None:
        super().__init__(env)
        self._row = row
        self._pick = key_filter(keys)

    def _carry(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
            raise _RowRaised(json.dumps(fault_of(self._row, error))) from None

    def step(self, action: Any) -> Any:
        return self._carry(self._step, action)

    def _step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if isinstance(reward, np.ndarray) and reward.size == 1:
            reward = reward.item()
        return observation, reward, terminated, truncated, self._sent(info)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._carry(self._reset, seed, options)

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> Any:
        if options is not None and _ROW_OPTIONS in options:
            options = options[_ROW_OPTIONS][self._row]
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._sent(info)

    def _sent(self, info: dict[str, Any]) -> dict[str, Any]:
        """The part of an info that is wanted and can travel; the rest of it may not even be picklable."""
        kept, dropped = travelling(self._pick(info))
        return {**kept, _DROPPED: json.dumps(dropped)} if dropped else kept

    def get_wrapper_attr(self, name: str) -> Any:
        if name == _CALL_ROWS:
            return self.call_rows
        if name == _ASSIGN_ROWS:
            return self.assign_rows
        attribute = self._carry(attribute_of, self.env, name)
        return partial(self._carry, attribute) if callable(attribute) else attribute

    def call_rows(self, rows: list[int], name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call a method or read an attribute where this is one of the rows; else None."""
        if self._row not in rows:
            return None
        attribute = self.get_wrapper_attr(name)
        return attribute(*args, **kwargs) if callable(attribute) else attribute

    def assign_rows(self, rows: list[int], name: str, values: list[Any]) -> None:
        """Set an attribute where this is one of the rows."""
        if self._row in rows:
            self.set_wrapper_attr(name, values[rows.index(self._row)])

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        del force  # gymnasium before 1.2 has no such argument
        return bool(self._carry(self.env.set_wrapper_attr, name, value))


class _NextStepRow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Resets in the step after an episode's end, for a vector environment that does not."""

    _due = False

    def step(self, action: Any) -> Any:
        if self._due:
            self._due = False
            observation, info = self.env.reset()
            return observation, 0.0, False, False, info
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._due = bool(terminated or truncated)
        return observation, reward, terminated, truncated, info

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._due = False
        return self.env.reset(seed=seed, options=options)


def _make_row(
    make: Callable[[int], gymnasium.Env[Any, Any]],
    row: int,
    keys: frozenset[str] | None,
    worker_pid: int,
    *,
    resets: bool = False,
) -> gymnasium.Env[Any, Any]:
    die_with_parent(worker_pid)
    try:
        env = FinalCopies(make(row))
        return _FaultCarrier(_NextStepRow(env) if resets else env, row, keys)
    except BaseException as error:  # noqa: BLE001 - a constructor may raise anything
        raise _RowRaised(json.dumps(fault_of(row, error))) from None


class _VectorEngine:
    """Runs one of Gymnasium's vector environments over all rows of a pool.

    Args:
        make: Makes the environment of a row.
        rows: First and end row; always all rows of the pool.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``.
        infos: What is sent beside observations, rewards and flags.
        observation_mode: ``same``, or ``different`` where the rows' observation spaces may differ in their bounds.

    Raises:
        RowFaults: An environment could not be made; names its row.
        InvalidSpec: Rows differ in more than that.
    """

    def __init__(
        self,
        make: Callable[[int], gymnasium.Env[Any, Any]],
        rows: tuple[int, int],
        autoreset_mode: str,
        infos: InfoOptions = ALL_INFOS,
        observation_mode: str = "same",
    ) -> None:
        self._first, self._size = rows[0], rows[1] - rows[0]
        self._makers = [partial(_make_row, make, row, infos.keys, os.getpid()) for row in range(*rows)]
        self._sends_final_info = infos.sends_final_info
        self._episodes = EpisodeStatistics(*rows, autoreset_mode, infos.lost)
        self._sends_episodes = infos.sends_statistics
        self._mode, self._observation_mode = AutoresetMode(autoreset_mode), observation_mode
        each = self._guarded(self._look_at_rows)
        if each is not None:
            refuse_differing(each)
        self._envs = self._guarded(self._start)
        self._usable = True
        envs = self._envs
        metadata = {key: value for key, value in envs.metadata.items() if key != "autoreset_mode"}
        self.info = EngineInfo(
            envs.single_observation_space if each is None else each[0],
            envs.single_action_space,
            metadata,
            envs.render_mode,
            each,
        )

        self._done = np.zeros(self._size, np.bool_)
        self._aside: list[bytes] | None = None

    def _look_at_rows(self) -> list[spaces.Space[Any]] | None:
        """The observation space of every row where they may differ, each from an environment that is made for it."""
        if self._observation_mode == "same":
            return None
        each = []
        for make in self._makers:
            with closing(make()) as env:
                each.append(env.observation_space)
        return each

    def _start(self) -> VectorEnv[Any, Any, Any]:
        raise NotImplementedError

    def bind(self, shard: Shard, slot: int = 0) -> None:
        """Take the part of the arena to work on: always all its rows."""
        self._shard, self._slot = shard, slot
        self._episodes.bind(shard.first, shard.tally)
        self._side = SideLeaves(self.info.observation_space)
        self._aside = self._aside or side_rows(self.info.observation_space, self._size)

    def step(self, slot: int) -> bytes:
        """Step every row into a slot."""
        if not self._usable:
            error = ResetNeeded("an environment raised before: reset the pool, then step it")
            raise RowFaults([fault_of(self._first, error)])
        actions = self._shard.action_batch()
        observations, rewards, terminated, truncated, infos = self._guarded(self._envs.step, actions)
        views = self._shard.slots[slot]
        views.rewards[:], views.terminated[:], views.truncated[:] = rewards, terminated, truncated
        restarted = self._done
        if self._mode is not AutoresetMode.DISABLED:
            self._done = terminated | truncated
        views.autoreset[:] = restarted if self._mode is AutoresetMode.NEXT_STEP else self._done
        resets = int(np.count_nonzero(restarted)) if self._mode is AutoresetMode.NEXT_STEP else 0
        ended = np.flatnonzero(terminated | truncated).tolist()
        self._shard.count(self._size - resets, len(ended))
        self._write(slot, observations)
        episodes = self._episodes.step(views.rewards, ended, report=self._sends_episodes)
        if self._sends_episodes and (claims := claims_of_episode([(self._first, infos)])):
            raise RowFaults([fault_of(*claim) for claim in claims])
        return self._encode(infos, episodes)

    def _encode(self, infos: dict[str, Any], episodes: dict[str, list[Any]] | None = None) -> bytes:
        dropped: dict[str, str] = {}
        if not self._sends_final_info:
            infos.pop("final_info", None)
            infos.pop("_final_info", None)
        for prefix, level in (("", infos), ("final_info.", infos.get("final_info"))):
            if isinstance(level, dict) and _DROPPED in level:
                texts = level.pop(_DROPPED)[level.pop(f"_{_DROPPED}")]
                dropped |= {f"{prefix}{path}": kind for text in texts for path, kind in json.loads(text).items()}
        bounds = self._shard.info_bounds
        return encode_merged(self._in_order(infos), self._aside, dropped=dropped, episodes=episodes, bounds=bounds)

    def _in_order(self, infos: dict[str, Any]) -> dict[str, Any]:
        return infos

    def _write(self, slot: int, observations: Any) -> None:
        self._slot = slot
        parts: Iterable[Any] = leaf_values(self.info.observation_space, observations)
        if self._aside is not None:
            parts, side = self._side.split(parts)
            write_aside(self._side, side, self._aside, self._first)
        for leaf, part in zip(self._shard.slots[slot].observations, parts, strict=True):
            leaf[:] = part

    def settle(self) -> None:
        """Count the episodes of the last step."""
        self._episodes.settle()

    def reset(self, slot: int, command: ResetCommand) -> bytes:
        """Reset rows into a slot; after a fault the vector environment is made again first."""
        if not self._usable:
            self._envs = self._guarded(self._start)
            self._usable = True
        given = command.options
        options = {_ROW_OPTIONS: given} if isinstance(given, list) else given
        if command.mask is not None:
            mask = np.array(command.mask, np.bool_)
            options = {**(options or {}), "reset_mask": mask}
            self._done = self._done & ~mask
        else:
            self._done = np.zeros(self._size, np.bool_)
        observations, infos = self._guarded(partial(self._envs.reset, seed=command.seeds, options=options))
        self._shard.reset_flags(self._slot, slot, command.mask)
        self._write(slot, observations)
        self._episodes.restart(command.mask)
        return self._encode(infos)

    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], rows: list[int] | None = None) -> list[Any]:
        """Call a method or read an attribute of rows."""
        if rows is None:
            return list(self._guarded(partial(self._envs.call, name, *args, **kwargs)))
        # Gymnasium asks all of them: those that are not meant do nothing
        results = self._guarded(partial(self._envs.call, _CALL_ROWS, rows, name, args, kwargs))
        return [results[row - self._first] for row in rows]

    def assign(self, name: str, values: list[Any], rows: list[int] | None = None) -> None:
        """Set an attribute of rows, one value for each."""
        if rows is None:
            self._guarded(partial(self._envs.set_attr, name, values))
        else:
            self._guarded(partial(self._envs.call, _ASSIGN_ROWS, rows, name, values))

    def _guarded(self, run: Callable[..., Any], *args: Any) -> Any:
        """Run something that may raise what an environment raised; afterwards Gymnasium's object is of no more use."""
        try:
            return run(*args)
        except _RowRaised as carried:
            fault = json.loads(str(carried))
        except Exception as error:  # noqa: BLE001 - Gymnasium itself refused
            fault = fault_of(self._first, error)
        self._usable = False
        self.close()
        raise RowFaults([fault])

    def close(self) -> None:
        """Close the vector environment, by force where it is not whole any more."""
        envs = getattr(self, "_envs", None)
        if envs is None or envs.closed:
            return
        try:
            envs.close(**self._close_arguments())
        except Exception:  # noqa: BLE001 - the worker leaves whatever Gymnasium raises here
            _log.exception("the vector environment raised while it was closed")

    def _close_arguments(self) -> dict[str, Any]:
        return {}


class AsyncEngine(_VectorEngine):
    """Gymnasium's ``AsyncVectorEnv``: a process a row."""

    def _start(self) -> VectorEnv[Any, Any, Any]:
        with closing(self._makers[0]()) as env:  # Gymnasium makes one more for the same reason
            shared = not SideLeaves(env.observation_space)
        makers, mode = self._makers, self._mode
        if not shared and mode is AutoresetMode.NEXT_STEP:
            # without shared memory Gymnasium resets a row a second time that was reset when its episode was over
            makers, mode = [partial(make, resets=True) for make in makers], AutoresetMode.DISABLED
        # fork: the worker has neither threads nor a ZeroMQ context, and a fresh interpreter a row would take seconds
        return AsyncVectorEnv(
            makers,
            context="fork",
            autoreset_mode=mode,
            shared_memory=shared,
            copy=False,
            observation_mode=self._observation_mode,
        )

    def _in_order(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Infos with ``final_obs`` before ``final_info``, as ``SyncVectorEnv`` has them."""
        if self._mode is not AutoresetMode.SAME_STEP or not {"final_obs", "final_info"} <= infos.keys():
            return infos
        ordered: dict[str, Any] = {}
        for key, value in infos.items():
            if key == "final_info":
                ordered |= {first: infos[first] for first in ("final_obs", "_final_obs")}
            ordered[key] = value
        return ordered

    def _close_arguments(self) -> dict[str, Any]:
        return {"terminate": not self._usable}


class SyncEngine(_VectorEngine):
    """Gymnasium's ``SyncVectorEnv``."""

    def _start(self) -> VectorEnv[Any, Any, Any]:
        return SyncVectorEnv(
            self._makers, autoreset_mode=self._mode, copy=False, observation_mode=self._observation_mode
        )
