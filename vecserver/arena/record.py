"""What a worker writes down so that another can take up its rows as they were: how each episode began, and the actions.

The memory outlives the worker, and one worker at a time writes it; whoever takes its place reads it first::

    words 0 … 15     TICK · SETTLED · TRYING, and what is known of the last two commands (six words each)
    row ×k           32 words: which of two beginnings is the last, whether the row was changed, the two beginnings
    entry ×(C + 1)   a ring with the actions of a batch each: dtype codes, then the action area of ``wire.actions``

A worker may be killed between any two words. So nothing is written over that whoever comes next may need: of commands
and of beginnings there are always two, and one word says which is the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.wire.actions import ActionFormat

__all__ = ["Beginning", "How", "Record", "Standing", "Why"]

_TICK: Final = 0
"""The number of the last command that was begun, of those that concern rows; from 1."""
_SETTLED: Final = 1
"""The number of the last one whose end was told."""
_TRYING: Final = 2
"""Whether rows are being rebuilt."""
_COMMANDS: Final = 4
_COMMAND_WORDS: Final = 6
_SEQ, _LENT, _STEPS, _IS_STEP, _SLOT, _RUNS = range(_COMMAND_WORDS)
_HEAD_WORDS: Final = 16

_ROW_WORDS: Final = 32
_LAST, _CHANGED, _BEGINNINGS = range(3)
_BEGINNING_WORDS: Final = 14
_AT, _HOW, _SPOILT, _FROM, _SEED, _EMPTY_OPTIONS, _BEGAN, _STATE = range(8)
_STATE_WORDS: Final = 6
assert _BEGINNINGS + 2 * _BEGINNING_WORDS <= _ROW_WORDS
assert _STATE + _STATE_WORDS <= _BEGINNING_WORDS


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
        state: Of the generator before the reset, six 64-bit words, where it had no seed.
        since: How many batches were stepped before.
        why: See ``Why``.
    """

    how: int
    seed: int = 0
    empty_options: bool = False
    began: float = 0.0
    state: tuple[int, ...] = (0,) * _STATE_WORDS
    since: int = 0
    why: int = Why.NOTHING


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
        rows = actions.num_envs
        self._words = memory[: 8 * (_HEAD_WORDS + _ROW_WORDS * rows)].cast("Q")
        self._moments = memory[: 8 * (_HEAD_WORDS + _ROW_WORDS * rows)].cast("d")
        self._codes, self._entry = _entry(actions)
        self._ring = memory[8 * (_HEAD_WORDS + _ROW_WORDS * rows) :]
        self._steps = 0
        self._order = (0, False)

    @staticmethod
    def size(actions: ActionFormat, capacity: int) -> int:
        """Bytes of a record, as the arguments of the constructor."""
        return 8 * (_HEAD_WORDS + _ROW_WORDS * actions.num_envs) + _entry(actions)[1] * (capacity + 1)

    # What a worker writes

    def order(self, seq: int, *, lent: bool) -> None:
        """Take note of the command that is run next: its number, and whether a driver in another process gave it."""
        self._order = (seq, lent)

    def begin(self, slot: int, actions: Sequence[Any] | None) -> None:
        """A command begins that concerns rows.

        Args:
            slot: The slot with the last results.
            actions: The arrays of a step's actions, one a leaf; None for a reset.
        """
        words, steps = self._words, self._steps
        if actions is not None:
            at = self._entry * (steps % (self.capacity + 1))
            area = at + self._codes
            self._actions.store(actions, self._ring[area : at + self._entry], self._ring[at:area])
            self._steps = steps + 1
        tick = words[_SETTLED] + 1
        command = _COMMANDS + _COMMAND_WORDS * (tick & 1)
        words[command + _RUNS] = words[command + _RUNS] + 1 if words[_TICK] == tick else 1
        words[command + _SEQ], words[command + _LENT] = self._order
        words[command + _STEPS] = steps
        words[command + _IS_STEP] = actions is not None
        words[command + _SLOT] = slot
        words[_TICK] = tick

    def settle(self) -> None:
        """The end of the last command was told."""
        self._words[_SETTLED] = self._words[_TICK]

    def note_beginning(self, row: int, beginning: Beginning) -> None:
        """An episode begins, in the command that was begun last; ``since`` and ``why`` are known here."""
        words, at = self._words, self._row(row)
        other = 1 - words[at + _LAST]
        place = at + _BEGINNINGS + _BEGINNING_WORDS * other
        words[place + _AT] = words[_TICK]
        words[place + _HOW] = beginning.how
        words[place + _SPOILT] = Why.NOTHING
        words[place + _FROM] = self._steps
        words[place + _SEED] = beginning.seed
        words[place + _EMPTY_OPTIONS] = beginning.empty_options
        self._moments[place + _BEGAN] = beginning.began
        for i, word in enumerate(beginning.state):
            words[place + _STATE + i] = word
        words[at + _LAST] = other

    def spoil(self, row: int, why: int) -> None:
        """The row's episode cannot be rebuilt from its beginning."""
        at = self._row(row)
        words = self._words
        words[at + _BEGINNINGS + _BEGINNING_WORDS * words[at + _LAST] + _SPOILT] = why

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
        tick = words[_TICK]
        command = _COMMANDS + _COMMAND_WORDS * (tick & 1)
        seq, lent, steps, is_step, slot, runs = words[command : command + _COMMAND_WORDS].tolist()
        if tick != words[_SETTLED] and done(bool(lent)) == seq:
            words[_SETTLED] = tick
        under_way = tick != words[_SETTLED]
        self._steps = steps if under_way else steps + is_step
        self._choose_beginnings(words[_SETTLED])
        return Standing(self._steps, slot if under_way else None, bool(words[_TRYING]) or (under_way and runs > 1))

    def _choose_beginnings(self, settled: int) -> None:
        """What began in the command that was under way begins anew: the beginning before it counts."""
        words = self._words
        for row in range(self._actions.num_envs):
            at = self._row(row)
            if words[at + _BEGINNINGS + _BEGINNING_WORDS * words[at + _LAST] + _AT] > settled:
                words[at + _LAST] = 1 - words[at + _LAST]

    def beginning(self, row: int) -> Beginning:
        """How the row's episode began."""
        words, at = self._words, self._row(row)
        place = at + _BEGINNINGS + _BEGINNING_WORDS * words[at + _LAST]
        return Beginning(
            words[place + _HOW],
            words[place + _SEED],
            bool(words[place + _EMPTY_OPTIONS]),
            self._moments[place + _BEGAN],
            tuple(words[place + _STATE : place + _STATE + _STATE_WORDS]),
            words[place + _FROM],
            words[place + _SPOILT],
        )

    def is_changed(self, row: int) -> bool:
        """Whether the row's environment is not as it was made."""
        return bool(self._words[self._row(row) + _CHANGED])

    def forget(self, row: int) -> None:
        """The row has another environment, of whose episode nothing is known."""
        at = self._row(row)
        words = self._words
        words[at + _BEGINNINGS + _BEGINNING_WORDS * words[at + _LAST] + _HOW] = How.NOT
        words[at + _CHANGED] = 0

    def forget_all(self) -> None:
        """Begin anew: nothing of what was noted is true any more."""
        self._words[:] = memoryview(bytes(self._words.nbytes)).cast("Q")
        self._steps = 0

    def trying(self, *, now: bool) -> None:
        """Rows are being rebuilt from here on, or have been."""
        self._words[_TRYING] = now

    def actions(self, step: int) -> list[Any]:
        """The actions of a batch, by how many were stepped before: one array a leaf, the caller's own."""
        at = self._entry * (step % (self.capacity + 1))
        codes = bytes(self._ring[at : at + self._actions.leaf_count])
        area = self._ring[at + self._codes : at + self._entry]
        return [array.copy() for array in self._actions.load(area, codes, slice(None))]

    @staticmethod
    def _row(row: int) -> int:
        return _HEAD_WORDS + _ROW_WORDS * row


def _entry(actions: ActionFormat) -> tuple[int, int]:
    """Bytes of the codes in an entry of the ring, and of the entry."""
    codes = -(-actions.leaf_count // 8) * 8
    return codes, codes + actions.area_size
