"""The engine of pools that replay: separate environments, and a record from which another worker can rebuild them.

Everything is noted beside the loop over the rows, which is that of the engine ``envs``: the actions of a batch before
it is stepped, the beginning of an episode in the reset that begins it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from vecserver.arena.record import How, Why
from vecserver.engine.base import RowFaults, attribute_of
from vecserver.engine.beginnings import begin_again, beginning_of
from vecserver.engine.envs import EnvsEngine
from vecserver.engine.lost import LostRow
from vecserver.engine.rows import observation_writer
from vecserver.wire.errors import Unportable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vecserver.arena.record import Episode, Record, Standing
    from vecserver.engine.base import ResetCommand, Shard
    from vecserver.engine.infos import InfoOptions

__all__ = ["ReplayEngine", "steps_kept"]

_USUAL_STEPS: Final = 10_000
"""Batches of actions that are kept where episodes have no limit."""
_MOST_STEPS: Final = 100_000

_TWICE: Final = "two workers ended in the same command, or while its rows were rebuilt"
_CHANGED: Final = "a method of it was called, or an attribute set"
_DIFFERENT: Final = "rebuilt, it did not show what it had shown before"
_NOT: Final = {
    How.NOT: "it is not known how its episode began",
    How.OPTIONS: "its episode began with options",
    How.OTHER_GENERATOR: "its random generator is not PCG64",
}


def steps_kept(env: gymnasium.Env[Any, Any]) -> int:
    """How many batches of actions a record keeps: the most steps of an episode, where there is a limit."""
    limits = []
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)  # noqa: SLF001 - ``spec`` copies all wrappers, and may raise
        env = env.env
    return min([*limits, _MOST_STEPS]) if limits else _USUAL_STEPS


class _Play:
    """A row's episode while it is played again."""

    __slots__ = ("began", "env", "gained", "is_over", "length", "observation", "since")

    def __init__(self, env: gymnasium.Env[Any, Any], episode: Episode) -> None:
        self.env, self.since, self.began = env, episode.since, episode.beginning.began
        self.observation, _ = begin_again(env, episode.beginning)
        self.gained, self.length, self.is_over = 0.0, 0, False

    def step(self, action: Any) -> None:
        """Step as before; the sums are those of ``EpisodeStatistics``."""
        self.observation, reward, terminated, truncated, _ = self.env.step(action)
        if self.is_over:  # in Disabled, where nobody has reset it
            self.gained, self.length = 0.0, 0
        else:
            self.gained += np.asarray(reward, np.float64).item()
            self.length += 1
        self.is_over = bool(terminated or truncated)


class ReplayEngine(EnvsEngine):
    """Separate environments with a record; as ``EnvsEngine`` in everything that is seen of it.

    Rows in the place of lost ones are rebuilt by ``rebuild``; those that cannot be stay as ``engine.lost`` makes them.
    """

    def __init__(
        self,
        make: Callable[[int], gymnasium.Env[Any, Any]],
        rows: tuple[int, int],
        autoreset_mode: str,
        infos: InfoOptions,
        observation_mode: str = "same",
    ) -> None:
        super().__init__(make, rows, autoreset_mode, infos, observation_mode)
        self._make, self._numbers = make, range(*rows)
        self.steps_kept = max(map(steps_kept, self._envs))

    def keep(self, record: Record) -> None:
        """Note what happens from now on in a record."""
        self._record = record
        for row in range(len(self._envs)):
            self._note_resets(row)

    def _note_resets(self, row: int) -> None:
        env = self._envs[row]
        if isinstance(env, LostRow):  # which may have a seed of its own for the first one
            env.renew = self._noted(row, env.env)
        else:
            self._resets[row] = self._noted(row, env)

    def _noted(self, row: int, env: gymnasium.Env[Any, Any]) -> Callable[..., Any]:
        note, reset, unwrapped = self._record.note_beginning, env.reset, env.unwrapped

        def noted(**given: Any) -> Any:
            note(row, beginning_of(unwrapped, **given))
            try:
                return reset(**given)
            except BaseException:
                self._record.spoil(row, Why.RAISED)
                raise

        return noted

    def step(self, slot: int) -> bytes:
        """Step every row into a slot."""
        area = self._shard.area
        self._record.begin_step(self._slot, area.views(), area.codes)
        try:
            return super().step(slot)
        except RowFaults as faults:
            for fault in faults.faults:
                self._record.spoil(fault["row"] - self._first, Why.RAISED)
            raise

    def settle(self) -> None:
        """Count the episodes of the last step, and note that its end was told."""
        self._record.settle()
        super().settle()

    def reset(self, slot: int, command: ResetCommand) -> bytes:
        """Reset rows into a slot."""
        self._record.begin_reset(self._slot)
        return super().reset(slot, command)

    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], rows: list[int] | None = None) -> list[Any]:
        """Call a method or read an attribute of rows; to call one may change them."""
        if name != "render":
            for row in self._chosen(rows):
                if _is_method(self._envs[row], name):
                    self._record.change(row)
        return super().call(name, args, kwargs, rows)

    def assign(self, name: str, values: list[Any], rows: list[int] | None = None) -> None:
        """Set an attribute of rows, one value for each."""
        for row in self._chosen(rows):
            self._record.change(row)
        super().assign(name, values, rows)

    def _chosen(self, rows: list[int] | None) -> Iterable[int]:
        return range(len(self._envs)) if rows is None else [row - self._first for row in rows]

    def rebuild(self, shard: Shard, standing: Standing, slot: int) -> list[str]:
        """Make the rows in the place of lost ones what those were before the command that was under way.

        Args:
            shard: Where the rows are.
            standing: How far the former worker had come.
            slot: The slot with the last results before that command.

        Returns:
            Why each row could not be rebuilt; empty text for one that was.
        """
        self._record.trying(now=True)
        self.bind(shard, slot)
        size = len(self._envs)
        whys = [_TWICE] * size if standing.is_tried else [self._obstacle(row, standing.steps) for row in range(size)]
        begun = [row for row, why in enumerate(whys) if not why]
        for row, play in self._played(begun, standing.steps, whys).items():
            whys[row] = self._taken(row, play, slot)
        for row, why in enumerate(whys):
            if why:
                self._give_up(row, why, used=row in begun)
        self._record.trying(now=False)
        return whys

    def _obstacle(self, row: int, steps: int) -> str:
        """Why a row cannot be rebuilt; empty where nothing is known against it."""
        beginning, since, why = self._record.episode(row)
        if self._record.is_changed(row):
            return _CHANGED
        if beginning.how in _NOT:
            return _NOT[beginning.how]
        if why == Why.RAISED:
            return "it raised in this episode"
        if steps - since > self._record.capacity:
            return f"its episode has more than {self._record.capacity} steps"
        return ""

    def _played(self, rows: list[int], steps: int, whys: list[str]) -> dict[int, _Play]:
        """Play the episodes of rows again, up to as many batches; says of each that raises why it is left out."""
        plays: dict[int, _Play] = {}

        def attempt(row: int, do: Callable[[], Any]) -> None:
            try:
                do()
            except BaseException as error:  # noqa: BLE001 - an environment may raise anything
                whys[row] = f"it raised {type(error).__name__} while it was rebuilt"
                plays.pop(row, None)

        def begin(row: int) -> None:
            plays[row] = _Play(self._lost(row).env, self._record.episode(row))

        for row in rows:
            attempt(row, partial(begin, row))
        for step in range(min((play.since for play in plays.values()), default=steps), steps):
            actions = self._shard.rows_of(self._record.actions(step))
            for row, play in tuple(plays.items()):
                if step >= play.since:
                    attempt(row, partial(play.step, actions[row]))
        return plays

    def _taken(self, row: int, play: _Play, slot: int) -> str:
        """Have a row go on with what was rebuilt, if it shows what the slot shows; else says so."""
        shown = self._shard.slots[slot]
        mine = shown._replace(observations=tuple(np.zeros_like(leaf) for leaf in shown.observations))
        try:
            observation_writer(self.info.observation_space, mine, self._aside)(row, play.observation)
        except (ValueError, TypeError, Unportable):
            return _DIFFERENT
        pairs = zip(mine.observations, shown.observations, strict=True)
        if any(leaf[row].tobytes() != was[row].tobytes() for leaf, was in pairs):
            return _DIFFERENT
        if self._mode != "SameStep" and play.is_over != (shown.terminated[row] or shown.truncated[row]):
            return _DIFFERENT
        self._envs[row], self._steps[row] = play.env, play.env.step
        self._done[row] = play.is_over
        self._note_resets(row)
        self._episodes.go_on(row, play.gained, play.length, play.began, is_over=play.is_over)
        return ""

    def _lost(self, row: int) -> LostRow:
        env = self._envs[row]
        assert isinstance(env, LostRow)
        return env

    def _give_up(self, row: int, why: str, *, used: bool) -> None:
        """Have a row go on as one that was lost, in an environment that nobody has used."""
        if used:
            self._lost(row).close()
            self._envs[row] = self._make(self._numbers[row])
            self._steps[row], self._resets[row] = self._envs[row].step, self._envs[row].reset
        self._lost(row).was_not_rebuilt(why)
        self._record.forget(row)
        self._note_resets(row)


def _is_method(env: gymnasium.Env[Any, Any], name: str) -> bool:
    try:
        return callable(attribute_of(env, name))
    except Exception:  # noqa: BLE001 - the call itself says what is wrong with it
        return False
