"""What an engine must do, and what it is given to do it with."""

from __future__ import annotations

import math
import traceback
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from vecserver.arena.views import WorkerLine
from vecserver.engine.limits import named
from vecserver.wire.codec import FOREIGN, pack
from vecserver.wire.errors import Unportable
from vecserver.wire.infos import InfoBounds
from vecserver.wire.layout import assemble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vecserver.arena.tally import Tally
    from vecserver.wire.actions import ActionFormat
    from vecserver.wire.layout import SlotViews

__all__ = ["ActionArea", "Engine", "EngineInfo", "ResetCommand", "RowFaults", "Shard", "attribute_of", "fault_of"]

# as plain names: an attribute of a class is looked up anew at every use
_STEPS, _EPISODES = WorkerLine.STEPS, WorkerLine.EPISODES

_WRAPPER_CLASSES: Final = "__wrapper_classes__"

_MAX_TEXT: Final = 16 << 10
"""Characters of a fault's message and of its traceback: an error fits into a reply whatever an environment says."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine's environments are like."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    metadata: dict[str, Any]
    render_mode: str | None
    row_observation_spaces: list[spaces.Space[Any]] | None = None
    """One a row where they may differ in their bounds; None where they are all the same."""


@dataclass(frozen=True, slots=True)
class ResetCommand:
    """How to reset a shard.

    Attributes:
        seeds: One seed or None a row of the shard.
        mask: Which rows; None for all.
        options: Handed to every environment; or a list with one dict or None a row of the shard.
    """

    seeds: list[int | None]
    mask: list[bool] | None
    options: dict[str, Any] | list[dict[str, Any] | None] | None


class RowFaults(Exception):
    """Environments raised. The rows that did not have finished the command.

    Attributes:
        faults: ``{"row", "type", "message", "traceback"}`` each.
    """

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        super().__init__(faults)
        self.faults = faults


def fault_of(row: int, error: BaseException) -> dict[str, Any]:
    """Describe an exception as data; never fails, whatever the exception is.

    Between a program and its own workers the exception's class comes along too, as text under ``original``.
    """
    message, limit = _text(lambda: str(error)), named(error)
    fault = {
        "row": row,
        "type": type(error).__name__,
        "message": f"{message} ({limit})" if limit else message,
        "traceback": _text(lambda: "".join(traceback.format_exception(error))),
    }
    return fault if FOREIGN.get() is None else {**fault, "original": _original(error)}


def _original(error: BaseException) -> str:
    """An exception's class and attributes; its class alone, or nothing, where more cannot be had."""
    for state in (vars(error), {}):
        try:
            data = pack((type(error), state))
        except Unportable:
            continue
        if len(data) <= _MAX_TEXT:
            return b64encode(data).decode()
    return ""


def attribute_of(env: gymnasium.Env[Any, Any], name: str) -> Any:
    """What a call means by a name: an attribute of the environment or of a wrapper around it.

    ``__wrapper_classes__`` is answered here: every class that a wrapper around the environment is an instance of, as
    ``module:name``; the wrappers that an engine puts there itself are none of them.
    """
    if name != _WRAPPER_CLASSES:
        return env.get_wrapper_attr(name)
    names: list[str] = []
    while isinstance(env, gymnasium.Wrapper):
        if not type(env).__module__.startswith("vecserver."):
            classes = [cls for cls in type(env).__mro__ if issubclass(cls, gymnasium.Wrapper)]
            names += [f"{cls.__module__}:{cls.__qualname__}" for cls in classes]
        env = env.env
    return names


def _text(make: Callable[[], str]) -> str:
    try:
        text = make()
    except Exception as error:  # noqa: BLE001 - an exception's own __str__ may raise anything
        text = f"<no text: {type(error).__name__} while it was made>"
    text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot travel
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT // 2]}\n…\n{text[-_MAX_TEXT // 2 :]}"


class ActionArea:
    """Some rows of a driver's actions, in the memory where it stores them.

    Args:
        actions: The pool's action format.
        area: The driver's action area.
        codes: The dtype codes of the action leaves beside it.
        rows: Which rows.
    """

    def __init__(self, actions: ActionFormat, area: memoryview, codes: memoryview, rows: slice) -> None:
        self._format = actions
        self._area = area
        self._codes = codes
        self._rows = rows
        self._views: dict[bytes, list[np.ndarray[Any, Any]]] = {}

    @property
    def codes(self) -> bytes:
        """The dtype codes of that batch."""
        return bytes(self._codes)

    def views(self) -> list[np.ndarray[Any, Any]]:
        """The arrays of the batch that is there now, one a leaf, of these rows."""
        codes = bytes(self._codes)
        views = self._views.get(codes)
        if views is None:
            views = self._views[codes] = self._format.load(self._area, codes, self._rows)
        return views


class Shard:
    """The part of the arena that one engine reads and writes: its rows of every slot, and its actions.

    Args:
        first: The shard's first row.
        end: One past its last row.
        slots: The slots of the arena.
        actions: The pool's action format.
        action_area: The arena's action area.
        codes: The dtype codes of the action leaves.
        line: The worker's line of words: the row being stepped, and its counters.
        tally: What else the worker counts.
        info_bytes: What all infos of a batch may come to.
    """

    def __init__(
        self,
        first: int,
        end: int,
        slots: Iterable[SlotViews],
        actions: ActionFormat,
        action_area: memoryview,
        codes: memoryview,
        line: memoryview,
        tally: Tally,
        info_bytes: float = math.inf,
    ) -> None:
        self.info_bounds = InfoBounds(info_bytes, tally.dropped_infos)
        self.first = first
        self.size = end - first
        self.rows = slice(first, end)
        self.slots = [
            type(slot)(
                tuple(leaf[self.rows] for leaf in slot.observations),
                slot.rewards[self.rows],
                slot.terminated[self.rows],
                slot.truncated[self.rows],
                slot.autoreset[self.rows],
            )
            for slot in slots
        ]
        self.line = line
        self.tally = tally
        self._format = actions
        self.area = ActionArea(actions, action_area, codes, self.rows)
        """Where the next step's actions are."""
        self._nested = isinstance(actions.space, spaces.Dict | spaces.Tuple)
        self._side: list[tuple[Any, ...]] | None = None
        self._batched_space = batch_space(actions.space, self.size)
        self.is_whole = self.size == actions.num_envs
        """Whether these are all rows of the pool."""

    def count(self, steps: int, episodes: int) -> None:
        """Add to the worker's counters, where the host and observers read them."""
        line = self.line
        line[_STEPS] += steps
        if episodes:
            line[_EPISODES] += episodes

    def repeat(self, last: int, slot: int) -> None:
        """Show in a slot what another shows."""
        shown, views = self.slots[last], self.slots[slot]
        for leaf, was in zip((*views.observations, *views[1:]), (*shown.observations, *shown[1:]), strict=True):
            leaf[...] = was

    def reset_flags(self, last: int, slot: int, mask: Sequence[bool] | None) -> None:
        """Write into a slot what a reset leaves of rewards and flags.

        That is which rows are over, as the slot with their last results says: who takes this worker's place needs it.

        Args:
            last: That slot.
            slot: The reset's.
            mask: The rows that are reset; None for all.
        """
        before, views = self.slots[last], self.slots[slot]
        for over, was in ((views.terminated, before.terminated), (views.truncated, before.truncated)):
            over[:] = False if mask is None else was & ~np.asarray(mask, np.bool_)
        views.rewards[:] = 0
        views.autoreset[:] = False

    def take_side(self, rows: Sequence[bytes]) -> None:
        """Take the side values of the shard's next actions, one encoded row each."""
        self._side = self._format.side.unpack_rows(rows, self.size)

    def _load(self) -> list[Any]:
        # A copy: an environment may keep its action, and the next batch overwrites the arena
        leaves = [view.copy() for view in self.area.views()]
        return leaves if self._side is None else list(self._format.side.weave(leaves, self._side))

    def action_batch(self) -> Any:
        """The shard's actions as one batch, in the structure of the batched space; the engine's own."""
        return assemble(self._format.space, iter(self._load()))

    def actions(self) -> list[Any]:
        """The shard's actions row by row, each as ``SyncVectorEnv`` hands it to its environment."""
        return self.rows_of(self._load())

    def rows_of(self, leaves: list[Any]) -> list[Any]:
        """The same of any batch of the shard's actions, one array a leaf."""
        if not self._nested:
            return list(leaves[0])
        return list(iterate(self._batched_space, assemble(self._format.space, iter(leaves))))


class Engine(Protocol):
    """Runs the environments of one shard; owned by one worker.

    A worker builds it, reads ``info``, binds it to an arena, then gives it commands one at a time. Commands that
    return bytes return the payload of infos for the side area, empty where there are none.
    """

    info: EngineInfo

    def bind(self, shard: Shard, slot: int = 0) -> None:
        """Take the part of the arena to work on; again, where its pool is split or joined.

        Rows are known by the shard's numbers from then on. What the engine knows of them stays: which are over, side
        values, statistics.

        Args:
            shard: As many rows as before.
            slot: The slot that holds their last results.
        """

    def step(self, slot: int) -> bytes:
        """Step every row with the actions in the arena and write the results into a slot.

        Raises:
            RowFaults: Environments raised; the other rows have stepped.
        """

    def settle(self) -> None:
        """Count what the last step brought; called when its end has been told, so that nobody waits for it."""

    def reset(self, slot: int, command: ResetCommand) -> bytes:
        """Reset rows; rows that are left out get their last observation again.

        Raises:
            RowFaults: Environments raised; the other rows are reset.
        """

    def call(self, name: str, args: list[Any], kwargs: dict[str, Any], rows: list[int] | None = None) -> list[Any]:
        """Call a method, or read an attribute, of every row or of some, by number in the pool.

        Raises:
            RowFaults: Environments raised.
        """

    def assign(self, name: str, values: list[Any], rows: list[int] | None = None) -> None:
        """Set an attribute of every row or of some, one value for each.

        Raises:
            RowFaults: Environments raised.
        """

    def close(self) -> None:
        """Close the environments; errors while closing are reported, not raised."""
