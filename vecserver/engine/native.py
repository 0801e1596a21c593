"""The engine ``native``: an environment's own vector environment, over all rows of a pool or over a shard of them.

Its numbers are its own. Most have one random generator for all rows and are not N seeded environments, so nothing but
an explicit ``engine="native"`` chooses it. What it is given has been checked before, and what it returns is checked
before it goes into the slot.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from vecserver.engine.base import EngineInfo, RowFaults, fault_of
from vecserver.engine.episodes import EpisodeStatistics
from vecserver.engine.infos import ALL_INFOS, InfoOptions, claims_of_episode
from vecserver.engine.rows import side_rows, write_aside
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import InvalidAction, InvalidSpec, VecServerError
from vecserver.wire.infos import encode_merged
from vecserver.wire.layout import assemble, has_slot, leaf_spaces, leaf_values
from vecserver.wire.side import SideLeaves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gymnasium.vector import VectorEnv

    from vecserver.engine.base import ResetCommand, Shard
    from vecserver.engine.make import EnvMaker

__all__ = ["NativeEngine"]

_log = logging.getLogger(__name__)

_FINAL_KEYS: Final = frozenset({"final_obs", "final_info"})


class NativeEngine:
    """One vector environment.

    Args:
        make: Makes it.
        rows: First and end row of the shard.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``: the one that it must have.
        infos: What is sent beside observations, rewards and flags.
        observation_mode: ``same``; the rows of a vector environment have one space.

    Raises:
        RowFaults: It could not be made.
        InvalidSpec: There is none, or it has another autoreset mode.
    """

    def __init__(
        self,
        make: EnvMaker,
        rows: tuple[int, int],
        autoreset_mode: str,
        infos: InfoOptions = ALL_INFOS,
        observation_mode: str = "same",
    ) -> None:
        del observation_mode
        self._first, self._size = rows[0], rows[1] - rows[0]
        self._over = np.zeros(self._size, np.bool_)  # the rows that the next step resets
        self._any_over = False
        self._aside: list[bytes] | None = None
        self._mode = AutoresetMode(autoreset_mode)
        try:
            self._envs: VectorEnv[Any, Any, Any] = make.vector(self._size, self._mode)
        except VecServerError:
            raise
        except BaseException as error:  # noqa: BLE001 - a constructor may raise anything
            raise RowFaults([fault_of(self._first, error)]) from None
        self._closed = False
        try:
            self.info = self._described()
        except BaseException:
            self.close()
            raise
        self._keys, self._sends_final_info = infos.keys, infos.sends_final_info
        self._episodes = EpisodeStatistics(*rows, autoreset_mode, infos.lost)
        self._sends_episodes = infos.sends_statistics
        self._torn = False  # it raised while it stepped: what state it is in nobody knows
        self._resets_by_mask = True  # until it shows otherwise

    @property
    def _name(self) -> str:
        return type(self._envs.unwrapped).__name__

    def _described(self) -> EngineInfo:
        envs = self._envs
        has = envs.metadata.get("autoreset_mode")
        if (has.value if isinstance(has, AutoresetMode) else has) != self._mode.value:
            says = "does not say which autoreset mode it has" if has is None else f"has the autoreset mode {has}"
            raise InvalidSpec(
                f"{self._name} {says}, and not {self._mode.value}: ask for the mode it has, or for another engine",
                field="autoreset_mode",
            )
        if envs.num_envs != self._size:
            error = ValueError(f"{self._name} has {envs.num_envs} rows where {self._size} were asked for")
            raise RowFaults([fault_of(self._first, error)])
        metadata = {key: value for key, value in envs.metadata.items() if key != "autoreset_mode"}
        return EngineInfo(envs.single_observation_space, envs.single_action_space, metadata, envs.render_mode)

    def bind(self, shard: Shard, slot: int = 0) -> None:
        """Take the part of the arena to work on."""
        self._shard, self._slot, self._first = shard, slot, shard.first
        self._episodes.bind(shard.first, shard.tally)
        self._side = SideLeaves(self.info.observation_space)
        self._aside = self._aside or side_rows(self.info.observation_space, self._size)
        self._format = ActionFormat(self.info.action_space, self._size)
        self._action_leaves = [leaf for _, leaf in leaf_spaces(self.info.action_space)]
        self._integers = [
            (i, leaf.dtype)
            for i, leaf in enumerate(self._action_leaves)
            if has_slot(leaf) and leaf.dtype is not None and leaf.dtype.kind in "bui"
        ]

    def step(self, slot: int) -> bytes:
        """Step every row into a slot."""
        if self._torn:
            error = ResetNeeded(f"{self._name} raised before: reset the pool, then step it")
            raise RowFaults([fault_of(self._first, error)])
        try:
            return self._step(slot)
        except RowFaults:
            self._torn = True
            raise
        except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
            self._torn = True
            raise RowFaults([fault_of(self._first, error)]) from None

    def _step(self, slot: int) -> bytes:
        observations, rewards, terminated, truncated, infos = self._envs.step(self._actions())
        views = self._shard.slots[slot]
        self._put(views.rewards, rewards, "rewards")
        self._put(views.terminated, terminated, "terminations")
        self._put(views.truncated, truncated, "truncations")
        self._write(slot, observations)
        self._slot = slot
        over: np.ndarray[Any, Any] = views.terminated | views.truncated
        ended = int(np.count_nonzero(over))
        restarted = 0
        if self._mode is AutoresetMode.NEXT_STEP:
            views.autoreset[:] = self._over
            restarted = int(np.count_nonzero(self._over)) if self._any_over else 0
            self._over, self._any_over = over, ended > 0
        else:
            views.autoreset[:] = over if self._mode is AutoresetMode.SAME_STEP else False
        self._shard.count(self._size - restarted, ended)
        rows = np.flatnonzero(over).tolist() if ended else []
        episodes = self._episodes.step(views.rewards, rows, report=self._sends_episodes)
        if self._sends_episodes and (claims := claims_of_episode([(self._first, infos)])):
            raise RowFaults([fault_of(*claim) for claim in claims])
        return self._encode(infos, episodes) if infos or episodes or self._aside else b""

    def _actions(self) -> Any:
        """The batch as the vector environment gets it: integers in its space's own dtype, which some insist on.

        A row that is being reset may have been sent anything, because nobody reads its action; but a native
        environment may hang or abort its process on a value outside its space even there.
        """
        space, batch = self.info.action_space, self._shard.action_batch()
        parts = [batch] if isinstance(batch, np.ndarray) else list(leaf_values(space, batch))
        for i, dtype in self._integers:
            if parts[i].dtype != dtype:
                parts[i] = parts[i].astype(dtype)
        if self._any_over and not self._format.has_side:
            try:
                self._format.check(parts)
            except InvalidAction:
                for leaf, part in zip(self._action_leaves, parts, strict=True):
                    part[self._over] = _neutral(leaf)
        return parts[0] if parts[0] is batch else assemble(space, iter(parts))

    def _put(self, target: np.ndarray[Any, Any], values: Any, what: str) -> None:
        array = np.asarray(values)
        if array.shape != target.shape:
            raise ValueError(f"{self._name} gave {what} of shape {array.shape} where {target.shape} is right")
        if target.dtype == np.bool_:
            target[:] = array  # 0 and 1 of any dtype are flags
        else:
            np.copyto(target, array, casting="same_kind")

    def _write(self, slot: int, observations: Any) -> None:
        if type(observations) is np.ndarray:  # most have one array
            self._put(self._shard.slots[slot].observations[0], observations, "observations")
            return
        parts: Iterable[Any] = leaf_values(self.info.observation_space, observations)
        if self._aside is not None:
            parts, side = self._side.split(parts)
            write_aside(self._side, side, self._aside, self._first)
        for leaf, part in zip(self._shard.slots[slot].observations, parts, strict=True):
            self._put(leaf, part, "observations")

    def _encode(self, infos: dict[str, Any], episodes: dict[str, list[Any]] | None = None) -> bytes:
        shard = None if self._shard.is_whole else (self._first, self._first + self._size)
        bounds = self._shard.info_bounds
        return encode_merged(self._sent(infos), self._aside, episodes=episodes, shard=shard, bounds=bounds)

    def _sent(self, infos: dict[str, Any]) -> dict[str, Any]:
        """The infos that are wanted; ``final_obs`` always is."""
        if self._keys is None:
            return infos
        wanted = {"final_obs"} if not self._sends_final_info else _FINAL_KEYS
        kept = _picked(infos, self._keys | wanted)
        if isinstance(kept.get("final_info"), dict):
            kept["final_info"] = _picked(kept["final_info"], self._keys)
        return kept

    def settle(self) -> None:
        """Count the episodes of the last step."""
        self._episodes.settle()

    def reset(self, slot: int, command: ResetCommand) -> bytes:
        """Reset rows into a slot: all of them, or those of a mask where the vector environment can."""
        mask = None if command.mask is None else np.array(command.mask, np.bool_)
        if mask is not None and not mask.any():
            return self._reset_none(slot)
        kept = mask is not None and not mask.all()
        try:
            if kept:
                self._check_mask()
            observations, infos = self._reset(command, mask)
            self._torn = False
            last = self._slot
            self._write(slot, observations)
            self._slot = slot
            if kept:
                self._check_kept(last, slot, mask)
        except RowFaults:
            raise
        except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
            raise RowFaults([fault_of(self._first, error)]) from None
        self._shard.reset_flags(last, slot, command.mask)
        self._over = self._over & ~mask if mask is not None else np.zeros(self._size, np.bool_)
        self._any_over = bool(self._over.any())
        self._episodes.restart(command.mask)
        return self._encode(infos) if infos or self._aside else b""

    def _reset_none(self, slot: int) -> bytes:
        """Show the last observations again, where all rows of the mask are other shards'."""
        slots = self._shard.slots
        for leaf, last in zip(slots[slot].observations, slots[self._slot].observations, strict=True):
            leaf[:] = last
        self._shard.reset_flags(self._slot, slot, [False] * self._size)
        self._slot = slot
        return self._encode({}) if self._aside else b""

    def _reset(self, command: ResetCommand, mask: np.ndarray[Any, Any] | None) -> Any:
        if isinstance(command.options, list):
            raise TypeError(f"{self._name} takes one dict of options for all its rows, not one a row")
        options = command.options
        if mask is not None:
            options = {**(options or {}), "reset_mask": mask}
        reset = partial(self._envs.reset, options=options)
        seeds = command.seeds
        if seeds[0] is None and not any(seed is not None for seed in seeds):
            return reset(seed=None)
        if seeds[0] is not None and seeds == list(range(seeds[0], seeds[0] + self._size)):
            return reset(seed=seeds[0])
        return self._reset_by_list(reset, seeds, mask)

    def _reset_by_list(
        self, reset: Callable[..., Any], seeds: list[int | None], mask: np.ndarray[Any, Any] | None
    ) -> Any:
        """Reset with a seed a row, in the form that the vector environment takes: a list, or an array of those rows."""
        try:
            return reset(seed=list(seeds))
        except Exception as error:  # noqa: BLE001 - it says in its own way that it takes no list
            refused = error
        mine = [seed for row, seed in enumerate(seeds) if mask is None or mask[row]]
        if None not in mine:
            try:
                return reset(seed=np.array(mine, np.int64))
            except Exception as error:  # noqa: BLE001 - as above
                _log.debug("%s takes no array of seeds: %s", self._name, error)
        raise ValueError(
            f"{self._name} cannot be reset with these seeds, one a row, as it is no {self._size} separate "
            f"environments: give one number (it says: {type(refused).__name__}: {refused})"
        )

    def _check_mask(self) -> None:
        if self._torn:
            raise ResetNeeded(f"{self._name} raised before: reset all rows")
        if not self._resets_by_mask:
            raise ValueError(f"{self._name} resets all its rows at once: it cannot be reset by mask; nothing was done")

    def _check_kept(self, last: int, slot: int, mask: Any) -> None:
        """Make sure that rows outside the mask were left alone: some vector environments do not look at it."""
        slots = self._shard.slots
        for before, after in zip(slots[last].observations, slots[slot].observations, strict=True):
            if before[~mask].tobytes() != after[~mask].tobytes():
                self._resets_by_mask, self._torn = False, True
                raise ValueError(
                    f"{self._name} was to reset the rows of a mask and has changed others: it cannot be reset by mask. "
                    "Reset all rows, their episodes are lost"
                )

    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], rows: list[int] | None = None) -> list[Any]:
        """Render, or call a method or read an attribute of all rows where the vector environment has a ``call``."""
        if name == "render":
            run: Callable[..., Any] = self._envs.render
        elif name == "__wrapper_classes__":
            return [[]] * (self._size if rows is None else len(rows))  # nothing is around a single row
        else:
            run = partial(self._of_all_rows("call", name, rows), name, *args, **kwargs)
        results = self._one_a_row(run, name)
        return results if rows is None else [results[row - self._first] for row in rows]

    def _of_all_rows(self, method: str, name: str, rows: list[int] | None) -> Callable[..., Any]:
        found: Callable[..., Any] | None = getattr(self._envs, method, None)
        if found is None or (rows is not None and len(rows) != self._size):
            why = f"has no `{method}`" if found is None else f"has a `{method}` of all its rows alone"
            error = AttributeError(f"{self._name} {why}: {name!r} cannot be had of single rows of engine 'native'")
            raise RowFaults([fault_of(self._first, error)])
        return found

    def _one_a_row(self, run: Callable[..., Any], name: str) -> list[Any]:
        try:
            results = run()
            if results is None:
                return [None] * self._size
            results = list(results)
        except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
            raise RowFaults([fault_of(self._first, error)]) from None
        if len(results) != self._size:
            wrong = ValueError(f"{self._name} gave {len(results)} results of {name!r} for {self._size} rows")
            raise RowFaults([fault_of(self._first, wrong)])
        return results

    def assign(self, name: str, values: list[Any], rows: list[int] | None = None) -> None:
        """Set an attribute of all rows, one value for each, where the vector environment has a ``set_attr``."""
        set_attr = self._of_all_rows("set_attr", name, rows)
        try:
            set_attr(name, values)
        except BaseException as error:  # noqa: BLE001 - an environment may raise anything, SystemExit too
            raise RowFaults([fault_of(self._first, error)]) from None

    def close(self) -> None:
        """Close the vector environment."""
        if self._closed:
            return
        self._closed = True
        try:
            self._envs.close()
        except BaseException:  # noqa: BLE001 - the worker leaves whatever it raises here
            _log.exception("the vector environment raised while it was closed")


def _picked(infos: dict[str, Any], keys: frozenset[str] | set[str]) -> dict[str, Any]:
    """Some keys of merged infos, and their masks."""
    return {
        key: value
        for key, value in infos.items()
        if key in keys or (key.startswith("_") and key[1:] in keys and key[1:] in infos)
    }


def _neutral(leaf: spaces.Space[Any]) -> Any:
    """An action that a space contains."""
    if isinstance(leaf, spaces.Box):
        return np.clip(np.zeros(leaf.shape, leaf.dtype), leaf.low, leaf.high)
    return leaf.start if isinstance(leaf, spaces.Discrete | spaces.MultiDiscrete) else 0
