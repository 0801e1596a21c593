"""The engine ``envs``: k separate environments in one loop, each as Gymnasium's vector environments run it.

One loop for each autoreset mode, because the loop is what a pool spends its time in. An environment that raises does
not stop the others: the fault is reported after the last row has stepped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from vecserver.arena.views import WorkerLine
from vecserver.engine.base import EngineInfo, RowFaults, attribute_of, fault_of
from vecserver.engine.episodes import EpisodeStatistics
from vecserver.engine.infos import ALL_INFOS, InfoOptions, claims_of_episode
from vecserver.engine.rows import observation_writer, side_rows
from vecserver.engine.settled import settled_step
from vecserver.wire.infos import encode_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    import gymnasium

    from vecserver.engine.base import ResetCommand, Shard

__all__ = ["EnvsEngine"]

_log = logging.getLogger(__name__)
_ROW = WorkerLine.ROW


class _Batch:
    """What a shard's rows returned, gathered in lists: one write a field is cheaper than one a row."""

    __slots__ = ("ends", "faults", "finals", "infos", "rewards")

    def __init__(self) -> None:
        self.rewards: list[Any] = []  # one for every row that is finished
        self.ends: list[tuple[int, Any, Any]] = []  # row, terminated, truncated, where either is true
        self.infos: list[tuple[int, dict[str, Any]]] = []
        self.finals: list[int] = []  # which of the infos are last observations and infos of episodes
        self.faults: list[dict[str, Any]] = []


class EnvsEngine:
    """Separate environments, stepped one after the other.

    Args:
        make: Makes the environment of a row.
        rows: First and end row of the shard.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``.
        infos: What is sent beside observations, rewards and flags.
        observation_mode: ``same``, or ``different`` where the rows' observation spaces may differ in their bounds; the
            caller judges whether they do in more.

    Raises:
        RowFaults: An environment could not be made; names its row.
    """

    def __init__(
        self,
        make: Callable[[int], gymnasium.Env[Any, Any]],
        rows: tuple[int, int],
        autoreset_mode: str,
        infos: InfoOptions = ALL_INFOS,
        observation_mode: str = "same",
    ) -> None:
        self._first = rows[0]
        self._same = ("observation_space", "action_space") if observation_mode == "same" else ("action_space",)
        self._envs: list[gymnasium.Env[Any, Any]] = []
        for row in range(*rows):
            try:
                self._envs.append(make(row))
                self._check_spaces(row)
            except BaseException as error:  # noqa: BLE001 - a constructor may raise anything
                self.close()
                raise RowFaults([fault_of(row, error)]) from None
        env = self._envs[0]
        each = None if observation_mode == "same" else [env.observation_space for env in self._envs]
        self.info = EngineInfo(env.observation_space, env.action_space, dict(env.metadata), env.render_mode, each)
        self._steps: list[Callable[[Any], Any]] = [env.step for env in self._envs]
        self._unsettled = [*range(len(self._envs))]  # rows whose standard wrappers may have something to check
        self._resets = [env.reset for env in self._envs]
        self._done = [False] * len(self._envs)  # which rows the next step resets, in NextStep
        self._mode = autoreset_mode
        loops = {"NextStep": self._next_step, "SameStep": self._same_step, "Disabled": self._disabled}
        self._loop = loops[autoreset_mode]
        self._final, self._kept = infos.final(), infos.rows()
        self._episodes = EpisodeStatistics(*rows, autoreset_mode, infos.lost)
        self._sends_episodes = infos.sends_statistics
        self._aside: list[bytes] | None = None

    def _check_spaces(self, row: int) -> None:
        first, env = self._envs[0], self._envs[-1]
        for name in self._same:
            if getattr(env, name) != getattr(first, name):
                raise RuntimeError(  # as Gymnasium's vector environments do
                    f"the {name} of row {row} is {getattr(env, name)}, not {getattr(first, name)} as before"
                )

    def bind(self, shard: Shard, slot: int = 0) -> None:
        """Take the part of the arena to work on."""
        self._shard, self._slot, self._first = shard, slot, shard.first
        self._aside = self._aside or side_rows(self.info.observation_space, shard.size)
        self._episodes.bind(shard.first, shard.tally)
        self._writers = [observation_writer(self.info.observation_space, slot, self._aside) for slot in shard.slots]

    def step(self, slot: int) -> bytes:
        """Step every row into a slot."""
        last, self._slot = self._slot, slot
        batch = _Batch()
        restarting = list(self._done)
        actions = self._shard.actions()
        size = len(self._envs)
        row = 0
        while row < size:
            # One try around the whole loop costs nothing a row; after a fault the loop goes on behind the faulty row
            try:
                self._loop(row, actions, self._writers[slot], batch)
                break
            except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
                row = len(batch.rewards)
                self._copy_observations(last, slot, row)
                batch.faults.append(fault_of(self._first + row, error))
                batch.rewards.append(0.0)
                row += 1
        if self._unsettled:
            self._settle()
        return self._publish(slot, batch, restarting)

    def _settle(self) -> None:
        """From now on pass the standard wrappers by where they have nothing left to do."""
        for row in tuple(self._unsettled):
            step = settled_step(self._envs[row])
            if step is not None:
                self._steps[row] = step
                self._unsettled.remove(row)

    def _publish(self, slot: int, batch: _Batch, restarting: list[bool]) -> bytes:
        views = self._shard.slots[slot]
        unstepped = [fault["row"] - self._first for fault in batch.faults]
        try:
            views.rewards[:] = batch.rewards
        except (ValueError, TypeError):  # a reward of shape (1,) among plain numbers: numpy takes it one by one
            for row, reward in enumerate(batch.rewards):
                try:
                    views.rewards[row] = np.asarray(reward).item()
                except (ValueError, TypeError) as error:
                    views.rewards[row] = 0.0
                    batch.faults.append(fault_of(self._first + row, error))
        views.terminated[:] = False
        views.truncated[:] = False
        views.autoreset[:] = restarting if self._mode == "NextStep" else False
        for row, terminated, truncated in batch.ends:
            views.terminated[row], views.truncated[row] = terminated, truncated
            views.autoreset[row] |= self._mode == "SameStep"
        restarted = restarting.count(True) if self._mode == "NextStep" else 0
        self._shard.count(len(self._envs) - restarted, len(batch.ends))
        infos = batch.infos if self._kept is None else self._kept(batch.infos, batch.finals)
        ended = [end[0] for end in batch.ends]
        episodes = self._episodes.step(views.rewards, ended, unstepped, report=self._sends_episodes)
        if self._sends_episodes:
            batch.faults += [fault_of(row, error) for row, error in claims_of_episode(infos)]
        if batch.faults:
            raise RowFaults(batch.faults)
        if not infos and not episodes and not self._aside:
            return b""
        return encode_rows(infos, self._aside, episodes=episodes, bounds=self._shard.info_bounds)

    def _next_step(self, start: int, actions: list[Any], write: Callable[[int, Any], None], batch: _Batch) -> None:
        steps, done, first, line, rewards = self._steps, self._done, self._first, self._shard.line, batch.rewards
        for row in range(start, len(steps)):
            line[_ROW] = first + row
            if done[row]:
                observation, info = self._resets[row]()
                write(row, observation)
                done[row] = False
                reward: Any = 0.0
            else:
                observation, reward, terminated, truncated, info = steps[row](actions[row])
                write(row, observation)
                if terminated or truncated:
                    done[row] = True
                    batch.ends.append((row, terminated, truncated))
            if info:
                batch.infos.append((first + row, info))
            rewards.append(reward)

    def _same_step(self, start: int, actions: list[Any], write: Callable[[int, Any], None], batch: _Batch) -> None:
        steps, first, line, rewards = self._steps, self._first, self._shard.line, batch.rewards
        for row in range(start, len(steps)):
            line[_ROW] = first + row
            observation, reward, terminated, truncated, info = steps[row](actions[row])
            if terminated or truncated:
                batch.finals.append(len(batch.infos))
                batch.infos.append((first + row, self._final(observation, info)))
                batch.ends.append((row, terminated, truncated))
                observation, info = self._resets[row]()
            write(row, observation)
            if info:
                batch.infos.append((first + row, info))
            rewards.append(reward)

    def _disabled(self, start: int, actions: list[Any], write: Callable[[int, Any], None], batch: _Batch) -> None:
        steps, first, line, rewards = self._steps, self._first, self._shard.line, batch.rewards
        for row in range(start, len(steps)):
            line[_ROW] = first + row
            observation, reward, terminated, truncated, info = steps[row](actions[row])
            write(row, observation)
            if terminated or truncated:
                batch.ends.append((row, terminated, truncated))
            if info:
                batch.infos.append((first + row, info))
            rewards.append(reward)

    def _copy_observations(self, source: int, target: int, rows: int | slice) -> None:
        """Show the observations that rows have in one slot in another too."""
        slots = self._shard.slots
        for leaf, last in zip(slots[target].observations, slots[source].observations, strict=True):
            leaf[rows] = last[rows]

    def settle(self) -> None:
        """Count the episodes of the last step."""
        self._episodes.settle()

    def reset(self, slot: int, command: ResetCommand) -> bytes:
        """Reset rows into a slot."""
        self._copy_observations(self._slot, slot, slice(None))
        self._shard.reset_flags(self._slot, slot, command.mask)
        self._slot = slot
        write = self._writers[slot]
        infos: list[tuple[int, dict[str, Any]]] = []
        faults = []
        options = command.options
        for row, reset in enumerate(self._resets):
            if command.mask is not None and not command.mask[row]:
                continue
            self._shard.line[_ROW] = self._first + row
            try:
                observation, info = reset(
                    seed=command.seeds[row], options=options[row] if isinstance(options, list) else options
                )
                write(row, observation)
            except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
                faults.append(fault_of(self._first + row, error))
                continue
            self._done[row] = False
            if info:
                infos.append((self._first + row, info))
        self._episodes.restart(command.mask)
        if faults:
            raise RowFaults(faults)
        if self._kept is not None:
            infos = self._kept(infos, [])
        return encode_rows(infos, self._aside, bounds=self._shard.info_bounds) if infos or self._aside else b""

    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], rows: list[int] | None = None) -> list[Any]:
        """Call a method or read an attribute of rows."""

        def run(env: gymnasium.Env[Any, Any]) -> Any:
            attribute = attribute_of(env, name)
            return attribute(*args, **kwargs) if callable(attribute) else attribute

        return self._each(run, rows)

    def assign(self, name: str, values: list[Any], rows: list[int] | None = None) -> None:
        """Set an attribute of rows, one value for each."""
        pending = iter(values)
        self._each(lambda env: env.set_wrapper_attr(name, next(pending)), rows)

    def _each(self, run: Callable[[gymnasium.Env[Any, Any]], Any], rows: list[int] | None) -> list[Any]:
        results, faults = [], []
        for row in range(len(self._envs)) if rows is None else [row - self._first for row in rows]:
            self._shard.line[_ROW] = self._first + row
            try:
                results.append(run(self._envs[row]))
            except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
                faults.append(fault_of(self._first + row, error))
        if faults:
            raise RowFaults(faults)
        return results

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            try:
                env.close()
            except BaseException:  # noqa: BLE001 - the others must be closed whatever this one raises
                _log.exception("an environment raised while it was closed")
