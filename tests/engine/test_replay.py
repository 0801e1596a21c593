"""An engine that takes the place of another shows what that one would have shown, wherever the other was stopped."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from tests.contract.compare import assert_same
from tests.replay_environments import CarefulEnv, DrawnEnv, DrawnNestedEnv, DrawnTextEnv
from vecserver.arena.plan import ArenaPlan
from vecserver.arena.record import Record
from vecserver.arena.tally import TALLY_SIZE, Tally
from vecserver.arena.views import ArenaViews, WorkerLine
from vecserver.engine.base import ResetCommand, RowFaults, Shard
from vecserver.engine.channel import Lost
from vecserver.engine.infos import InfoOptions
from vecserver.engine.lost import makes_lost_rows
from vecserver.engine.replay import ReplayEngine, steps_kept
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, unpack
from vecserver.wire.layout import Layout

ROWS, FIRST = 3, 2
CAUSE = "it was killed"


class _Stopped(Exception):
    """In the place of a signal."""


class Rows:
    """The rows of one worker and the memory that outlives it; plays the host and the worker.

    Args:
        env: The class of the rows.
        mode: The autoreset mode.
        capacity: Of the record.
        **kwargs: Of the environments.
    """

    def __init__(self, env: type, mode: str, capacity: int = 20, **kwargs: Any) -> None:
        self._make, self._mode = partial(env, **kwargs), mode
        one = self._make()
        self.space = one.action_space
        size = FIRST + ROWS
        self._layout, self.actions = Layout.of(one.observation_space, size), ActionFormat(self.space, size)
        plan = ArenaPlan.of(self._layout, self.actions, ((0, FIRST), (FIRST, size)))
        self._memory = bytearray(plan.size)
        self._views = ArenaViews(plan, self._layout, self._memory)  # type: ignore[arg-type]
        self.line = self._views.worker_lines[1]
        mine = ActionFormat(self.space, ROWS)
        self._record_memory = bytearray(Record.size(mine, capacity))
        self._record_of = partial(Record, memoryview(self._record_memory), mine, capacity)
        self.seq, self.whys = 0, [""] * ROWS
        self.start(None)

    def start(self, lost: Lost | None) -> None:
        """Begin to work, in the place of another where there was one."""
        make = lambda _row: self._make()  # noqa: E731
        if lost is not None:
            make = makes_lost_rows(make, lost, FIRST)
        infos = InfoOptions("all", episode_statistics=True, lost=lost)
        self.engine = ReplayEngine(make, (FIRST, FIRST + ROWS), self._mode, infos)
        views = self._views
        tally = Tally(memoryview(bytearray(TALLY_SIZE)))
        self.shard = Shard(FIRST, FIRST + ROWS, views.slots, self.actions, views.actions, views.codes, self.line, tally)
        self.engine.bind(self.shard, self.line[WorkerLine.SLOT])
        self.record = self._record_of()
        self.engine.keep(self.record)
        if lost is not None:
            standing = self.record.take_up(lambda _lent: self.line[WorkerLine.DONE])
            slot = self.line[WorkerLine.SLOT] if standing.slot is None else standing.slot
            self.whys = self.engine.rebuild(self.shard, standing, slot)

    def replace(self) -> None:
        """Start another in the place of the one that works."""
        slot = self._views.slots[self.line[WorkerLine.SLOT]]
        mine = slice(FIRST, FIRST + ROWS)
        over = (slot.terminated | slot.truncated)[mine] & (self._mode != "SameStep")
        observations = [pack([leaf[row] for leaf in slot.observations]) for row in range(FIRST, FIRST + ROWS)]
        self.start(Lost(CAUSE, True, self._mode, over.tolist(), observations, None, [90, 91, 92]))

    def run(self, command: Any, stop: str = "") -> tuple[Any, ...]:
        """Run a command, and once more with another worker where the first is stopped in it; returns what shows."""
        self.seq += 1
        slot = (self.line[WorkerLine.SLOT] + 1) % 3
        if not isinstance(command, ResetCommand):
            self.actions.store(self.actions.coerce(command), self._views.actions, self._views.codes)
        if stop == "before":
            self.replace()
        elif stop in ("inside", "behind"):
            with pytest.raises(_Stopped):
                self._run(command, slot, stop)
            self.replace()
        payload = self._run(command, slot)
        self.line[WorkerLine.DONE] = self.seq
        if stop == "told":
            self.replace()
        else:
            self.engine.settle()
        return self._shown(slot, payload)

    def _run(self, command: Any, slot: int, stop: str = "") -> bytes:
        self.record.order(self.seq, lent=False)
        if stop == "inside":
            self.engine._publish = self._stop  # type: ignore[method-assign]
            self.engine._episodes.restart = self._stop  # type: ignore[method-assign]
        try:
            is_reset = isinstance(command, ResetCommand)
            payload = self.engine.reset(slot, command) if is_reset else self.engine.step(slot)
        except RowFaults as faults:
            payload = pack([[fault["row"], fault["type"]] for fault in faults.faults])
        self.line[WorkerLine.SLOT] = slot
        if stop:
            raise _Stopped
        return payload

    @staticmethod
    def _stop(*_: Any, **__: Any) -> Any:
        raise _Stopped

    def _shown(self, slot: int, payload: bytes) -> tuple[Any, ...]:
        shown = self.shard.slots[slot]
        infos = unpack(payload) if payload else None
        return [leaf.copy() for leaf in shown.observations], *(part.copy() for part in shown[1:]), _timeless(infos)


def _timeless(value: Any) -> Any:
    """Without how long episodes took."""
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key != "t"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def commands(rows: Rows, mode: str, seed: int, count: int) -> Any:
    """Random steps and resets; what is over is reset where the mode does not."""
    rng = np.random.default_rng(seed)
    rows.space.seed(seed)
    yield ResetCommand([5, 6, 7], None, None), ""
    for _ in range(count):
        stop = str(rng.choice(["", "", "", "before", "inside", "behind", "told"]))
        slot = rows.shard.slots[rows.line[WorkerLine.SLOT]]
        over = (slot.terminated | slot.truncated).tolist()
        if mode == "Disabled" and any(over):
            yield ResetCommand([None] * ROWS, over, None), stop
        elif rng.integers(10) == 0:
            seeds = [int(seed) if seed % 2 else None for seed in rng.integers(0, 99, ROWS)]
            mask = None if rng.integers(3) == 0 else rng.integers(0, 2, ROWS).astype(bool).tolist()
            yield ResetCommand(seeds, mask, None), stop
        else:
            yield batch_of(rows), stop


def batch_of(rows: Rows) -> Any:
    """Actions of all rows of the arena."""
    each = [rows.space.sample() for _ in range(FIRST + ROWS)]
    if isinstance(rows.space, spaces.Dict):
        return {key: np.array([action[key] for action in each]) for key in rows.space}
    return np.array(each)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
@pytest.mark.parametrize("env", [DrawnEnv, DrawnNestedEnv, DrawnTextEnv])
def test_whoever_goes_on_shows_what_would_have_been_shown(mode, env):
    """Stopped between two commands, in one, behind its results, and when its end was told."""
    stopped, undisturbed = Rows(env, mode), Rows(env, mode)
    for number, (command, stop) in enumerate(commands(stopped, mode, 4, 250)):
        assert_same(stopped.run(command, stop), undisturbed.run(command), f"command {number}, stopped {stop!r}")
        assert stopped.whys == [""] * ROWS


def played(env: type = DrawnEnv, mode: str = "NextStep", steps: int = 2, **options: Any) -> Rows:
    """Rows that were reset and stepped."""
    rows = Rows(env, mode, **{"length": 30, **options})
    rows.run(ResetCommand([1, 2, 3], None, None))
    for _ in range(steps):
        rows.run(np.zeros(FIRST + ROWS, int))
    return rows


def test_a_row_that_cannot_be_rebuilt_ends_and_begins_anew():
    """With the reason behind the cause; its neighbours go on, and so does it in its next episode."""
    rows = played()
    rows.run(ResetCommand([None] * ROWS, [True, False, False], {"size": 3}))
    rows.engine.assign("tag", [1.0], [FIRST + 1])
    rows.engine.call("tag", [], {})
    rows.replace()
    assert rows.whys == ["its episode began with options", "a method of it was called, or an attribute set", ""]
    *_, truncated, _, infos = rows.run(np.zeros(FIRST + ROWS, int))
    assert truncated.tolist() == [True, True, False]
    assert f"{CAUSE}; it was not rebuilt: its episode began with options" in repr(infos)
    observations = rows.run(np.zeros(FIRST + ROWS, int))[0][0]
    assert observations[:2, 2].tolist() == [0, 0]
    rows.replace()
    assert rows.whys == [""] * ROWS
    assert rows.run(np.zeros(FIRST + ROWS, int))[0][0][:2, 2].tolist() == [1, 1]


def test_what_a_method_does_is_not_known():
    """Pictures and attributes change nothing, nor does a name that is none."""
    rows = played()
    rows.engine.call("render", [], {})
    with pytest.raises(RowFaults):
        rows.engine.call("nothing_of_this_name", [], {})
    rows.engine.call("add", [1], {}, [FIRST + 2])
    rows.replace()
    assert rows.whys[:2] == ["", ""]
    assert rows.whys[2].startswith("a method of it was called")


def test_a_row_is_rebuilt_from_as_many_steps_as_are_kept():
    """One more is too many; also where the ring has gone round."""
    rows = played(capacity=5, steps=5)
    rows.replace()
    assert rows.whys == [""] * ROWS
    rows.run(ResetCommand([None] * ROWS, [False, True, False], None))
    for _ in range(2):
        rows.run(np.ones(FIRST + ROWS, int))
    rows.replace()
    assert rows.whys == ["its episode has more than 5 steps", "", "its episode has more than 5 steps"]


def test_a_row_that_raised_is_not_rebuilt(tmp_path):
    """Nor one that raises when it is."""
    mark = tmp_path / "mark"
    rows = played(CarefulEnv, mark=str(mark))
    actions = np.zeros(FIRST + ROWS, int)
    actions[FIRST + 1] = 4
    rows.run(actions)
    mark.touch()
    actions[:] = 0
    actions[FIRST] = 4
    rows.run(actions)
    rows.replace()
    assert rows.whys == ["it raised in this episode", "it raised ValueError while it was rebuilt", ""]


def test_a_reset_that_raised_is_not_known():
    """The row can be reset again."""
    rows = played()
    with pytest.raises(RowFaults):
        rows.engine.reset(0, ResetCommand([-1, None, None], [True, False, False], None))
    rows.replace()
    assert [bool(why) for why in rows.whys] == [True, False, False]


def test_a_command_in_which_two_were_stopped_is_not_tried_a_third_time():
    """Its rows end; what was rebuilt before it counts for nothing, and the count begins anew with the next command."""
    rows = played()
    rows.seq += 1
    for _ in range(2):
        with pytest.raises(_Stopped):
            rows._run(np.zeros(FIRST + ROWS, int), 1, "behind")
        rows.line[WorkerLine.SLOT] = 0
        before = rows.whys
        rows.replace()
    assert before == [""] * ROWS
    assert all("two workers ended in the same command" in why for why in rows.whys)
    assert rows.run(np.zeros(FIRST + ROWS, int))[2 + 1].all()
    rows.run(np.zeros(FIRST + ROWS, int))
    rows.run(np.zeros(FIRST + ROWS, int), "behind")
    assert rows.whys == [""] * ROWS


def test_rows_that_stopped_a_worker_while_they_were_rebuilt_are_not_tried_again():
    """Whatever they did to it."""
    rows = played()
    rows.record.trying(now=True)
    rows.replace()
    assert all("while its rows were rebuilt" in why for why in rows.whys)
    rows.run(ResetCommand([None] * ROWS, None, None))
    rows.replace()
    assert rows.whys == [""] * ROWS


@pytest.mark.parametrize("change", ["observations", "truncated"])
def test_what_does_not_show_the_same_is_not_taken(change):
    """The last results tell."""
    rows = played()
    shown = getattr(rows.shard.slots[rows.line[WorkerLine.SLOT]], change)
    (shown[0][1] if change == "observations" else shown)[1:2] = True
    rows.replace()
    assert rows.whys == ["", "rebuilt, it did not show what it had shown before", ""]


def test_the_record_holds_an_episode():
    """As long as the environment's limit says, the shortest of them; not without end."""
    assert steps_kept(DrawnEnv()) == 10_000
    assert steps_kept(TimeLimit(TimeLimit(DrawnEnv(), 500), 70)) == 70
    assert steps_kept(TimeLimit(DrawnEnv(), 10**9)) == 100_000
