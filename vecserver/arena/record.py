"""What a worker writes down so that another can take up its rows as they were: how each episode began, and the actions.

The memory outlives the worker, and one worker at a time writes it; whoever takes its place reads it first::

    words 0 … 15     TICK · SETTLED · TRYING, and what is known of the last two commands (six words each)
    row ×k           32 words: which of two beginnings is the last, whether the row was changed, the two beginnings
    entry ×(C + 1)   a ring with the actions of a batch each: dtype codes, then the action area of ``wire.actions``

A worker may be killed between any two words. So nothing is written over that whoever comes next may need: of commands
and of beginnings there are always two, and one word says which is the last.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from numpy.lib.stride_tricks import as_strided

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from vecserver.wire.actions import ActionFormat

__all__ = ["Beginning", "Episode", "How", "Record", "Standing", "Why"]

_TICK: Final = 0
"""The number of the last command that was begun, of those that concern rows; from 1."""
_SETTLED: Final = 1
"""The number of the last one whose end was told."""
_TRYING: Final = 2
"""Whether rows are being rebuilt."""
_COMMANDS: Final = 4
_COMMAND: Final = Struct("=6Q")
"""Who gave it which number (0 for the host, 1 for a driver in another process), batches stepped before, whether it is
one more, the slot with the results before, how often it was run."""
_COMMAND_WORDS: Final = 6
_HEAD_WORDS: Final = 16

_ROW_WORDS: Final = 32
_LAST, _CHANGED, _BEGINNINGS = range(3)
_BEGINNING: Final = Struct("=6Qd40s")
"""The number of its command, and the attributes of ``Beginning``."""
_BEGINNING_WORDS: Final = 14
_AT, _SINCE, _WHY, _HOW = range(4)
assert _BEGINNINGS + 2 * _BEGINNING_WORDS <= _ROW_WORDS
assert _BEGINNING.size <= 8 * _BEGINNING_WORDS


class How:
    """How an episode began."""

    NOT: Final = 0
    """There is none, or it began with another worker."""
    SEED: Final = 1
    STATE: Final = 2
    """Without a seed, from the state of the environment's generator."""
    OPTIONS: Final = 3
    OTHER_GENERATOR: Final = 4


class Why:
    """Why a row cannot be rebuilt, though how its episode began is known."""

    NOTHING: Final = 0
    RAISED: Final = 1


class Beginning(NamedTuple):
    """The beginning of an episode.

    Attributes:
        how: See ``How``.
        seed: Of its reset, where it had one.
        empty_options: Whether the reset had options without anything in them, instead of None.
        began: When, as ``time.perf_counter`` says.
        state: Of the generator before the reset, 40 bytes, where it had no seed.
    """

    how: int
    seed: int = 0
    empty_options: bool = False
    began: float = 0.0
    state: bytes = b""


class Episode(NamedTuple):
    """What is known of a row's episode.

    Attributes:
        beginning: Of it.
        since: How many batches were stepped before.
        why: See ``Why``.
    """

    beginning: Beginning
    since: int
    why: int


class Standing(NamedTuple):
    """How far a worker had come.

    Attributes:
        steps: Batches that it has stepped to the end.
        slot: The slot with the last results, where a command was under way; None where none was.
        is_tried: Whether that was run twice already, or its rows were being rebuilt when the worker ended.
    """

    steps: int
    slot: int | None
    is_tried: bool


class Record:
    """The record of one worker's rows.

    Args:
        memory: ``size`` bytes.
        actions: The action format of these rows.
        capacity: Batches of actions that are kept.
    """

    def __init__(self, memory: memoryview, actions: ActionFormat, capacity: int) -> None:
        self._actions = actions
        self.capacity = capacity
        end = 8 * (_HEAD_WORDS + _ROW_WORDS * actions.num_envs)
        self._bytes, self._ring = memory[:end], memory[end:]
        self._words = self._bytes.cast("Q")
        self._codes, self._entry = _entry(actions)
        self._areas: dict[bytes, list[np.ndarray[Any, Any]]] = {}
        self._steps = self._settled = self._tick = 0
        self._order = (0, False)

    @staticmethod
    def size(actions: ActionFormat, capacity: int) -> int:
        """Bytes of a record, as the arguments of the constructor."""
        return 8 * (_HEAD_WORDS + _ROW_WORDS * actions.num_envs) + _entry(actions)[1] * (capacity + 1)

    # What a worker writes

    def order(self, seq: int, *, lent: bool) -> None:
        """Take note of the command that is run next: its number, and whether a driver in another process gave it."""
        self._order = (seq, lent)

    def begin_step(self, slot: int, actions: Sequence[np.ndarray[Any, Any]], codes: bytes) -> None:
        """A step begins.

        Args:
            slot: The slot with the last results.
            actions: Its actions, one array a leaf.
            codes: Their dtype codes.
        """
        steps = self._steps
        entry = steps % (self.capacity + 1)
        at = self._entry * entry
        self._ring[at : at + len(codes)] = codes
        for area, array in zip(self._areas.get(codes) or self._areas_of(codes), actions, strict=True):
            area[entry] = array
        self._begin(slot, steps, 1)
        self._steps = steps + 1

    def begin_reset(self, slot: int) -> None:
        """A reset begins; as ``begin_step``."""
        self._begin(slot, self._steps, 0)

    def _begin(self, slot: int, steps: int, more: int) -> None:
        tick, runs = self._settled + 1, 1
        command = 8 * (_COMMANDS + _COMMAND_WORDS * (tick & 1))
        if self._tick == tick:  # it was begun by a worker that has ended
            runs += _COMMAND.unpack_from(self._bytes, command)[-1]
        _COMMAND.pack_into(self._bytes, command, *self._order, steps, more, slot, runs)
        self._words[_TICK] = self._tick = tick

    def _areas_of(self, codes: bytes) -> list[np.ndarray[Any, Any]]:
        """Of all entries of the ring, the arrays of each leaf in the dtypes that the codes name: [C + 1, rows, …]."""
        first = self._actions.load(self._ring[self._codes : self._entry], codes, slice(None))
        self._areas[codes] = [
            as_strided(array, (self.capacity + 1, *array.shape), (self._entry, *array.strides)) for array in first
        ]
        return self._areas[codes]

    def settle(self) -> None:
        """The end of the last command was told."""
        if self._settled != self._tick:
            self._words[_SETTLED] = self._settled = self._tick

    def note_beginning(self, row: int, beginning: Beginning) -> None:
        """An episode begins, in the command that was begun last."""
        how, seed, empty_options, began, state = beginning
        words, at = self._words, _HEAD_WORDS + _ROW_WORDS * row
        other = 1 - words[at]
        place = 8 * (at + _BEGINNINGS + _BEGINNING_WORDS * other)
        _BEGINNING.pack_into(self._bytes, place, self._tick, self._steps, 0, how, seed, empty_options, began, state)
        words[at] = other

    def spoil(self, row: int, why: int) -> None:
        """The row's episode cannot be rebuilt from its beginning."""
        self._words[self._last(row) + _WHY] = why

    def change(self, row: int) -> None:
        """The row's environment is not any more as it was made."""
        self._words[self._row(row) + _CHANGED] = 1

    # What is read by whoever takes its place

    def take_up(self, done: Callable[[bool], int]) -> Standing:
        """Find out how far the former worker had come, and go on from there.

        Args:
            done: The number of the last command that was finished, of the host or of the driver in another process.
        """
        words = self._words
        self._tick, self._settled = words[_TICK], words[_SETTLED]
        command = 8 * (_COMMANDS + _COMMAND_WORDS * (self._tick & 1))
        seq, lent, steps, more, slot, runs = _COMMAND.unpack_from(self._bytes, command)
        if self._tick != self._settled and done(bool(lent)) == seq:
            self.settle()
        under_way = self._tick != self._settled
        self._steps = steps if under_way else steps + more
        self._choose_beginnings()
        return Standing(self._steps, slot if under_way else None, bool(words[_TRYING]) or (under_way and runs > 1))

    def _choose_beginnings(self) -> None:
        """What began in the command that was under way begins anew: the beginning before it counts."""
        words = self._words
        for row in range(self._actions.num_envs):
            if words[self._last(row) + _AT] > self._settled:
                words[self._row(row) + _LAST] ^= 1

    def episode(self, row: int) -> Episode:
        """What is known of the row's episode."""
        _, since, why, how, seed, empty_options, began, state = _BEGINNING.unpack_from(self._bytes, 8 * self._last(row))
        return Episode(Beginning(how, seed, bool(empty_options), began, state), since, why)

    def is_changed(self, row: int) -> bool:
        """Whether the row's environment is not as it was made."""
        return bool(self._words[self._row(row) + _CHANGED])

    def forget(self, row: int) -> None:
        """The row has another environment, of whose episode nothing is known."""
        self._words[self._last(row) + _HOW] = How.NOT
        self._words[self._row(row) + _CHANGED] = 0

    def forget_all(self) -> None:
        """Begin anew: nothing of what was noted is true any more."""
        self._bytes[:] = bytes(len(self._bytes))
        self._steps = self._settled = self._tick = 0

    def trying(self, *, now: bool) -> None:
        """Rows are being rebuilt from here on, or have been."""
        self._words[_TRYING] = now

    def actions(self, step: int) -> list[Any]:
        """The actions of a batch, by how many were stepped before: one array a leaf, the caller's own."""
        entry = step % (self.capacity + 1)
        at = self._entry * entry
        codes = bytes(self._ring[at : at + self._actions.leaf_count])
        return [area[entry].copy() for area in self._areas.get(codes) or self._areas_of(codes)]

    @staticmethod
    def _row(row: int) -> int:
        return _HEAD_WORDS + _ROW_WORDS * row

    def _last(self, row: int) -> int:
        """Where the row's last beginning is."""
        at = self._row(row)
        return at + _BEGINNINGS + _BEGINNING_WORDS * self._words[at + _LAST]


def _entry(actions: ActionFormat) -> tuple[int, int]:
    """Bytes of the codes in an entry of the ring, and of the entry."""
    codes = -(-actions.leaf_count // 8) * 8
    return codes, codes + actions.area_size
