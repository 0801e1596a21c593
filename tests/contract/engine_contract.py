"""The contract of every engine: what it writes into the arena is what Gymnasium's ``SyncVectorEnv`` returns.

Inherit ``EngineContract`` in a class whose name starts with ``Test`` and name the engine::

    class TestEnvs(EngineContract):
        engine = "envs"

The engines run in this process, over a real arena. ``EngineRows`` plays the worker and the client around them: it stores
actions, has the engines fill a slot and reads it, so that the same comparisons serve as for a vector environment. A
class attribute that is set to False declares a part of the contract that the engine does not keep; its tests are
skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from tests.contract.compare import assert_same, run_both
from tests.contract.vector_contract import (
    COUNT,
    DISABLED,
    NEXT_STEP,
    RAISE,
    SAME_STEP,
    SIDE_ENVIRONMENTS,
    TEST_ENVIRONMENTS,
    in_every_mode,
    make_oracle,
    step_until_an_end,
)
from tests.environments import FAULT_KINDS, FAULT_MESSAGE, CountEnv, env_id
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.plan import ArenaPlan, even_shards
from vecserver.arena.views import ArenaViews, WorkerLine
from vecserver.engine.base import ResetCommand, RowFaults, Shard
from vecserver.engine.infos import ALL_INFOS, InfoOptions
from vecserver.engine.make import EnvMaker
from vecserver.engine.table import make_engine
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import unpack
from vecserver.wire.infos import DROPPED_ROW, MERGED_ROWS, join, merge
from vecserver.wire.layout import Layout, assemble
from vecserver.wire.side import SideLeaves

FAULT_TYPES = {
    "value": "ValueError",
    "unpicklable": "UnpicklableError",
    "two_args": "TwoArgumentError",
    "keyboard": "KeyboardInterrupt",
    "systemexit": "SystemExit",
}
REAL_ENVIRONMENTS = [("CartPole-v1", 5, 80), ("Pendulum-v1", 3, 205), ("FrozenLake-v1", 5, 60)]


class OddObservationEnv(CountEnv):
    """``Count`` whose observation is another one at step ``at``, in the rows that were reset with ``seed``."""

    def __init__(self, *, observation: Any, at: int = 2, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._odd, self._at, self._seed = observation, at, seed

    def observe(self) -> Any:
        due = self.steps == self._at and self._seed in (None, self.identity)
        return self._odd if due else super().observe()


class GrowingEnv(CountEnv):
    """Every environment made has a larger observation space than the one before."""

    made = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        type(self).made += 1
        self.observation_space = spaces.Box(-np.inf, np.inf, (6 + self.made,), np.float64)


class StuckDoorEnv(CountEnv):
    """Cannot be closed without an error."""

    def close(self) -> None:
        raise OSError("the door is stuck")


class UnportableInfoEnv(CountEnv):
    """Puts something into its infos that cannot travel."""

    def describe(self, action: Any) -> dict[str, Any]:
        return {"steps": self.steps, "lock": object()}


class OddRewardEnv(CountEnv):
    """Gives these rewards, one a step; an episode has as many steps."""

    def __init__(self, *, rewards: Sequence[float], **kwargs: Any) -> None:
        super().__init__(length=len(rewards), **kwargs)
        self._rewards = rewards

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self._rewards[self.steps - 1], *rest


for _cls in (OddRewardEnv, OddObservationEnv, GrowingEnv, StuckDoorEnv, UnportableInfoEnv):
    _id = f"vectest/{_cls.__name__.removesuffix('Env')}-v0"
    if _id not in gym.registry:
        gym.register(_id, _cls, disable_env_checker=True)


def _within(rows: list[int], shard: slice) -> list[int]:
    return [row for row in rows if shard.start <= row < shard.stop]


class EngineRows:
    """Engines over the shards of one arena, stepped like a vector environment.

    Attributes:
        engines: One a shard.
        payloads: What the engines returned for the last command.
    """

    def __init__(
        self,
        engine: str,
        env: str,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode = NEXT_STEP,
        shards: int = 1,
        render_mode: str | None = None,
        infos: InfoOptions = ALL_INFOS,
        wrappers: Sequence[Any] = (),
        **env_kwargs: Any,
    ) -> None:
        maker, bounds = EnvMaker(env, env_kwargs, render_mode, list(wrappers)), even_shards(num_envs, shards)
        self.engines = [make_engine(engine, maker, rows, autoreset_mode.value, infos) for rows in bounds]
        self.info, self.num_envs, self.metadata = self.engines[0].info, num_envs, {"autoreset_mode": autoreset_mode}
        self.format = ActionFormat(self.info.action_space, num_envs)
        layout = Layout.of(self.info.observation_space, num_envs)
        plan = ArenaPlan.of(layout, self.format, bounds)
        fd = create("vecserver-engine-test")
        size_and_seal(fd, plan.size)
        self.views = ArenaViews(plan, layout, map_memory(fd, plan.size))
        os.close(fd)
        self.slot = 0
        self.payloads: list[bytes] = []
        self._shards: list[Shard] = []
        views = self.views
        for each, (first, end), line, tally in zip(
            self.engines, bounds, views.worker_lines, views.tallies, strict=True
        ):
            self._shards.append(Shard(first, end, views.slots, self.format, views.actions, views.codes, line, tally))
            each.bind(self._shards[-1])
        self._bounds = bounds
        self._merger: VectorEnv = VectorEnv()
        self._merger.num_envs = num_envs

    def step(self, actions: Any):
        ext, body = self.format.encode(self.format.coerce(actions))
        parts = self.format.decode(ext, body)
        self.format.check(parts)
        self.format.store(parts, self.views.actions, self.views.codes)
        self.slot = (self.slot + 1) % len(self.views.slots)
        for shard, rows in zip(self._shards, self._bounds, strict=True):
            if self.format.side:
                shard.take_side(self.format.side_rows(parts, *rows))
        self._run(lambda engine, _: engine.step(self.slot))
        slot = self.views.slots[self.slot]
        infos = self._infos()
        return self.observations(), *map(np.copy, (slot.rewards, slot.terminated, slot.truncated)), infos

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed
        seeds = seeds or [None] * self.num_envs
        options = dict(options) if options is not None else None
        mask = options.pop("reset_mask", None) if options else None
        self.slot = (self.slot + 1) % len(self.views.slots)

        def reset(engine: Any, rows: slice) -> bytes:
            part = None if mask is None else mask[rows].tolist()
            return engine.reset(self.slot, ResetCommand(seeds[rows], part, options))

        self._run(reset)
        infos = self._infos()
        return self.observations(), infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> list[Any]:
        return self._run(lambda engine, _: engine.call(name, list(args), kwargs))

    def render(self, rows: list[int] | None = None) -> list[Any]:
        def render(engine: Any, mine: slice) -> list[Any]:
            wanted = list(range(self.num_envs)) if rows is None else rows
            return engine.call("render", [], {}, _within(wanted, mine))

        return self._run(render)

    def assign(self, name: str, values: list[Any]) -> None:
        self._run(lambda engine, rows: engine.assign(name, values[rows]))

    def call_some(self, rows: list[int], name: str, *args: Any) -> list[Any]:
        return self._run(lambda engine, mine: engine.call(name, list(args), {}, _within(rows, mine)))

    def assign_some(self, rows: list[int], name: str, values: list[Any]) -> None:
        given = dict(zip(rows, values, strict=True))

        def assign(engine: Any, mine: slice) -> None:
            some = _within(rows, mine)
            engine.assign(name, [given[row] for row in some], some)

        self._run(assign)

    def observations(self) -> Any:
        leaves = (leaf.copy() for leaf in self.views.slots[self.slot].observations)
        side = SideLeaves(self.info.observation_space)
        if side:
            leaves = side.weave(leaves, side.unpack_rows(self._aside, self.num_envs))
        return assemble(self.info.observation_space, leaves)

    def autoreset(self) -> list[bool]:
        return self.views.slots[self.slot].autoreset.tolist()

    def counted(self) -> tuple[int, int]:
        """Steps and episodes of all workers together."""
        lines = self.views.worker_lines
        return sum(line[WorkerLine.STEPS] for line in lines), sum(line[WorkerLine.EPISODES] for line in lines)

    def figures(self) -> tuple[float, ...]:
        """Episodes in the sums, episodes left out, their steps, returns gained, returns lost, of all workers."""
        return tuple(sum(each) for each in zip(*(tally.sums for tally in self.views.tallies), strict=True))

    def recent(self) -> list[tuple[float | None, int]]:
        """Return and length of the last episodes, in the order in which they ended."""
        entries = [entry for tally in self.views.tallies for entry in tally.recent()]
        return [(gained, length) for _, gained, length in sorted(entries, key=lambda entry: entry[0])]

    def _run(self, command: Callable[[Any, slice], Any]) -> list[Any]:
        """Gives a command to every engine, as the workers do: all of them run it, then the faults come out."""
        results, faults = [], []
        for engine, rows in zip(self.engines, self._bounds, strict=True):
            try:
                results.append(command(engine, slice(*rows)))
            except RowFaults as error:
                faults += error.faults
            engine.settle()
        if faults:
            raise RowFaults(faults)
        self.payloads = [result for result in results if isinstance(result, bytes)]
        return [item for result in results if isinstance(result, list) for item in result]

    def _infos(self) -> dict[str, Any]:
        infos, self.dropped, self._aside = merge(join(self.payloads), self.num_envs, self._merger._add_info)
        return infos

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
            vars(engine).clear()
        # The mapping goes with the last view of it, and pytest keeps this object, and the engines in its log
        vars(self).clear()
        self.engines = []


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's log of what a worker raised
class EngineContract:
    """Tests of one engine; see the module's docstring."""

    engine: str
    steps_the_others = True
    """A row that raises does not keep the others from stepping."""
    survives_a_bad_call = True
    """An error in a call or a frame leaves the episodes as they are."""
    refuses_odd_observations = True
    """An observation that does not fit its space is a fault of its row."""
    accepts_one_element_rewards = True
    """Takes rewards of shape (1,), and flags that are ``np.bool_``."""
    takes_half_floats = True
    """Runs environments with observations of float16."""
    closes_whatever_happens = True
    """Runs environments that raise when they are closed."""
    takes_part_of_a_pool = True
    """Runs a shard of a pool's rows."""
    merges_infos = False
    """Sends infos merged, not row by row."""

    @pytest.fixture
    def opened(self) -> Iterator[ExitStack]:
        with ExitStack() as stack:
            yield stack

    @pytest.fixture
    def rows(self, opened: ExitStack) -> Callable[..., EngineRows]:
        """Makes engines that are closed after the test."""

        def make(env: str, *args: Any, **kwargs: Any) -> EngineRows:
            self.skip_unless(self.takes_half_floats or env != env_id("Nested-v0"), "takes_half_floats")
            return opened.enter_context(closing(EngineRows(self.engine, env, *args, **kwargs)))

        return make

    @pytest.fixture
    def pair(self, rows: Callable[..., EngineRows], opened: ExitStack) -> Callable[..., tuple[EngineRows, Any]]:
        """Makes engines and their oracle."""

        def make(*args: Any, **kwargs: Any) -> tuple[EngineRows, Any]:
            subject = rows(*args, **kwargs)
            kwargs.pop("shards", None)
            return subject, opened.enter_context(closing(make_oracle(*args, **kwargs)))

        return make

    def skip_unless(self, declared: bool, what: str) -> None:
        if not declared:
            pytest.skip(f"declared off: {what}")

    def fault(self, command: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The first fault that a command ends with."""
        with pytest.raises(RowFaults) as caught:
            command(*args, **kwargs)
        return min(caught.value.faults, key=lambda fault: fault["row"])

    # What a step returns

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), TEST_ENVIRONMENTS + SIDE_ENVIRONMENTS)
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        assert run_both(*pair(env_id(name), num_envs, autoreset_mode=mode, **kwargs), 25, seed=100) >= 2 * num_envs

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "steps"), REAL_ENVIRONMENTS)
    def test_real_environments_equal_the_oracle(self, pair, mode, name, num_envs, steps):
        """Gymnasium's own environments give the same to the bit, across the ends of episodes."""
        assert run_both(*pair(name, num_envs, autoreset_mode=mode), steps, seed=7) > 0

    @in_every_mode
    def test_shards_together_equal_the_oracle(self, pair, mode):
        """Rows spread unevenly over shards give what they give together."""
        self.skip_unless(self.takes_part_of_a_pool, "takes_part_of_a_pool")
        for name in ("Count-v0", "Nested-v0", "CountBox-v0"):
            assert run_both(*pair(env_id(name), 7, autoreset_mode=mode, shards=3), 25, seed=5) >= 14

    def test_a_shard_writes_its_own_rows_only(self, rows):
        """The rows of other shards stay as they are, byte for byte."""
        self.skip_unless(self.takes_part_of_a_pool, "takes_part_of_a_pool")
        subject = rows(env_id("Nested-v0"), 7, shards=3)
        subject.reset(seed=1)
        subject.format.store(subject.format.coerce(_nested_actions(7)), subject.views.actions, subject.views.codes)
        slot = subject.views.slots[2]
        for field in (*slot.observations, slot.rewards, slot.terminated, slot.truncated, slot.autoreset):
            field.view(np.uint8)[:] = 1
        others = [*range(2), *range(4, 7)]
        before = [field[others].copy() for field in (*slot.observations, slot.rewards, slot.terminated)]
        subject.engines[1].step(2)
        after = [field[others] for field in (*slot.observations, slot.rewards, slot.terminated)]
        assert_same(after, before, "rows of other shards")
        assert not slot.terminated[2:4].any()

    @in_every_mode
    def test_a_reused_observation_buffer_changes_nothing(self, rows, pair, mode):
        """An environment that overwrites its observation gives what one with fresh arrays gives."""
        reusing = rows(env_id("ReusedBuffer-v0"), 5, autoreset_mode=mode)
        assert run_both(reusing, pair(COUNT, 5, autoreset_mode=mode)[1], 25, seed=100) >= 10

    @in_every_mode
    def test_one_element_rewards_and_numpy_flags_are_numbers(self, rows, pair, mode):
        """Rewards of shape (1,) and ``np.bool_`` flags give what floats and bools give."""
        self.skip_unless(self.accepts_one_element_rewards, "accepts_one_element_rewards")
        name = env_id("OneReward-v0")
        plain = pair(name, 3, autoreset_mode=mode, plain=True)[1]
        assert run_both(rows(name, 3, autoreset_mode=mode), plain, 25, seed=100) >= 6

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
    def test_actions_arrive_in_the_dtype_they_were_sent_in(self, pair, dtype):
        """A float64 action for a float32 space reaches the environment unrounded."""
        rng = np.random.default_rng(3)
        run_both(*pair(env_id("Float64Action-v0"), 3), 12, change=lambda _: rng.normal(size=(3, 1)).astype(dtype))

    def test_an_environment_may_keep_its_action_and_write_into_it(self, rows):
        """Neither do later batches change a kept action, nor an environment's writes the actions in the arena."""
        subject = rows(env_id("Keeper-v0"), 3, writes=True)
        subject.reset(seed=10)
        for value in (0.25, 0.5, 0.125):
            observations = subject.step(np.full((3, 2), value, np.float32))[0]
            assert observations[:, 5].tolist() == [0, 0, 0]
            area = subject.format.load(subject.views.actions, bytes(subject.views.codes), slice(0, 3))[0]
            assert (area == value).all()

    def test_results_before_the_last_stay_readable(self, rows):
        """A slot keeps what was written into it while the other slots are filled."""
        subject = rows(COUNT, 3)
        observations = [subject.reset(seed=1)[0]]
        slots = [subject.slot]
        for _ in range(2):
            observations.append(subject.step(np.array([1, 2, 3]))[0])
            slots.append(subject.slot)
        for slot, expected in zip(slots, observations, strict=True):
            assert_same(subject.views.slots[slot].observations[0].copy(), expected, f"slot {slot}")

    @in_every_mode
    def test_autoreset_marks_the_rows_that_were_reset_in_a_step(self, rows, mode):
        """With NextStep the rows that were reset instead of stepped, with SameStep those that ended, else none."""
        subject = rows(COUNT, 5, autoreset_mode=mode)
        subject.reset(seed=3)
        over = np.zeros(5, np.bool_)
        marked = 0
        for _ in range(20):
            before = over
            over = np.logical_or(*subject.step(np.zeros(5, np.int64))[2:4])
            expected = {NEXT_STEP: before, SAME_STEP: over, DISABLED: np.zeros(5, np.bool_)}[mode]
            assert subject.autoreset() == expected.tolist()
            marked += sum(subject.autoreset())
            if mode is DISABLED and over.any():
                subject.reset(options={"reset_mask": over})
                assert subject.autoreset() == [False] * 5
        assert marked >= (0 if mode is DISABLED else 5)

    @in_every_mode
    def test_steps_and_episodes_are_counted(self, pair, mode):
        """Steps without autoresets, and ends of episodes, add up over all shards."""
        subject, _ = pair(COUNT, 5, autoreset_mode=mode, shards=2 if self.takes_part_of_a_pool else 1)
        subject.reset(seed=3)
        steps = episodes = 0
        for _ in range(20):
            over = np.logical_or(*subject.step(np.zeros(5, np.int64))[2:4])
            steps += 5 - (sum(subject.autoreset()) if mode is NEXT_STEP else 0)
            episodes += int(over.sum())
            assert subject.counted() == (steps, episodes)
            if mode is DISABLED and over.any():
                subject.reset(options={"reset_mask": over})
        assert episodes >= 5

    # Infos

    def test_no_infos_are_no_bytes(self, rows):
        """Environments without infos cost nothing on the way."""
        subject = rows(COUNT, 3, with_infos=False)
        subject.reset(seed=1)
        assert b"".join(subject.payloads) == b""
        subject.step(np.zeros(3, np.int64))
        assert b"".join(subject.payloads) == b""

    def test_infos_name_their_rows(self, rows):
        """A payload holds an entry a row, by its number in the pool, or one of merged infos."""
        shards = 2 if self.takes_part_of_a_pool else 1
        subject = rows(COUNT, 4, shards=shards)
        for run in (lambda: subject.reset(seed=1), lambda: subject.step(np.zeros(4, np.int64))):
            run()
            numbers = [row for payload in subject.payloads for row, _ in unpack(payload)]
            assert numbers == ([MERGED_ROWS] if self.merges_infos else [0, 1, 2, 3])

    def test_infos_that_cannot_travel_are_left_out_and_named(self, rows):
        """The step goes on without them."""
        subject = rows("vectest/UnportableInfo-v0", 2)
        subject.reset(seed=1)
        infos = subject.step(np.zeros(2, np.int64))[4]
        assert infos["steps"].tolist() == [1, 1]
        assert "lock" not in infos
        assert unpack(subject.payloads[0])[-1][0] == DROPPED_ROW
        assert "lock" in subject.dropped

    # Resets

    @in_every_mode
    def test_a_mask_resets_its_rows_and_no_other(self, pair, mode):
        """Rows outside the mask keep their episode and their last observation."""
        subject, oracle = pair(COUNT, 5, autoreset_mode=mode, length=8)
        for envs in (subject, oracle):
            envs.reset(seed=40)
            envs.step(np.array([1, 2, 3, 4, 0]))
        for bits in ([1, 0, 0, 0, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]):
            mask = np.array(bits, np.bool_)
            both = [
                envs.reset(seed=[7, None, 8, 9, None], options={"reset_mask": mask.copy()})
                for envs in (subject, oracle)
            ]
            assert_same(*both, f"reset by {bits}")
            for _ in range(2):
                actions = np.array([4, 3, 2, 1, 0])
                assert_same(subject.step(actions), oracle.step(actions), "step")

    @pytest.mark.parametrize("by_mask", [False, True], ids=["of all rows", "by mask"])
    def test_a_reset_takes_the_place_of_a_due_autoreset(self, pair, by_mask):
        """A row that was reset when its episode was over steps next, and is not reset a second time."""
        subject, oracle = pair(COUNT, 5)
        for envs in (subject, oracle):
            envs.reset(seed=30)
        over = step_until_an_end(subject, oracle)
        options = {"reset_mask": over} if by_mask else None
        assert_same(*[envs.reset(options=deepcopy(options)) for envs in (subject, oracle)], "reset")
        for _ in range(3):
            actions = np.array([4, 3, 2, 1, 0])
            assert_same(subject.step(actions), oracle.step(actions), "step")

    @pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP], ids=["next_step", "same_step"])
    def test_a_reset_of_values_beside_the_slot(self, pair, mode):
        """Rows outside the mask give their last values again, and a reset takes the place of a due autoreset."""
        both = pair(env_id("Mixed-v0"), 5, autoreset_mode=mode, shards=2 if self.takes_part_of_a_pool else 1)
        assert run_both(*both, 2, seed=30) == 0
        over = np.zeros(5, np.bool_)
        while not over.any():
            actions = both[1].action_space.sample()
            results = [envs.step(deepcopy(actions)) for envs in both]
            assert_same(*results, "step")
            over = np.logical_or(*results[1][2:4])
        for mask in (over, ~over, np.ones(5, np.bool_)):
            assert_same(*[envs.reset(options={"reset_mask": mask.copy()}) for envs in both], f"reset by {mask}")
            for _ in range(2):
                actions = both[1].action_space.sample()
                assert_same(*[envs.step(deepcopy(actions)) for envs in both], "step")

    def test_a_value_that_cannot_travel_is_a_fault_of_its_row(self, pair):
        """The others step on, and after a reset all go on."""
        both = pair(env_id("Text-v0"), 3, broken_at=2, seed=11)
        run_both(*both, 1, seed=10)
        fault = self.fault(both[0].step, ["a", "b", "c"])
        assert (fault["row"], fault["type"]) == (1, "Unportable")
        assert "the observation has a lone surrogate" in fault["message"]
        run_both(*both, 1, seed=20)

    def test_rows_may_differ_in_their_bounds(self, opened):
        """Where they are allowed to, and each row's space is told."""
        made = [spaces.Box(-bound, bound, (6,), np.float64) for bound in (2.0, 3.0, 4.0)]

        def make(row: int) -> gym.Env:
            env = CountEnv()
            env.observation_space = made[row]
            return env

        engine = opened.enter_context(
            closing(make_engine(self.engine, make, (0, 3), "NextStep", observation_mode="different"))
        )
        assert engine.info.row_observation_spaces == made
        assert engine.info.observation_space == made[0]

    def test_seeds_and_options_reach_their_rows(self, pair):
        """A seed or none a row, and the same options for all."""
        both = pair(COUNT, 4)
        for seeds in ([5, None, 9, None], None, [None, 1, None, 2]):
            options = {"mark": [1, (2.5, None)]}
            assert_same(*[envs.reset(seed=seeds, options=deepcopy(options)) for envs in both], f"reset({seeds})")

    def test_a_reset_clears_rewards_and_flags(self, rows):
        """A slot that held the end of an episode holds none after a reset."""
        subject = rows(COUNT, 3, length=1)
        subject.reset(seed=1)
        for _ in range(3):
            subject.step(np.zeros(3, np.int64))
            subject.reset()
            slot = subject.views.slots[subject.slot]
            for field in (slot.rewards, slot.terminated, slot.truncated, slot.autoreset):
                assert not field.any()

    # Figures

    @in_every_mode
    def test_episodes_are_added_up(self, rows, mode):
        """Returns and lengths of those that ended by themselves, across partial resets, in and between episodes."""
        subject = rows(COUNT, 4, autoreset_mode=mode)
        subject.reset(seed=20)
        gained, length, over = np.zeros(4), np.zeros(4, int), np.zeros(4, np.bool_)
        ended: list[tuple[float, int]] = []
        for number in range(40):
            _, rewards, terminated, truncated, _ = subject.step(np.full(4, number % 5))
            stepped = ~over if mode is NEXT_STEP else np.ones(4, np.bool_)
            gained, length = gained + rewards * stepped, length + stepped
            done = terminated | truncated
            ended += [(gained[row], length[row]) for row in np.flatnonzero(done)]
            gained, length = np.where(done, 0.0, gained), np.where(done, 0, length)
            mask = (done if mode is DISABLED else np.zeros(4, np.bool_)) | (np.arange(4) == number % 9)
            over = done & ~mask
            if mask.any():
                subject.reset(options={"reset_mask": mask})
                gained, length = np.where(mask, 0.0, gained), np.where(mask, 0, length)
        assert len(ended) > 12
        count, left_out, steps, plus, minus = subject.figures()
        assert (count, left_out, steps) == (len(ended), 0, sum(taken for _, taken in ended))
        assert plus - minus == pytest.approx(sum(total for total, _ in ended))
        assert [taken for _, taken in subject.recent()] == [taken for _, taken in ended]
        assert [total for total, _ in subject.recent()] == pytest.approx([total for total, _ in ended])

    @in_every_mode
    def test_a_reward_that_is_no_number_spoils_its_own_episode_alone(self, rows, mode):
        """Not the sums, nor the next episode of its row, nor the step, however strict numpy is."""
        for rewards in ([np.nan, 1.0], [np.inf, 1.0], [np.inf, -np.inf], [1e308, 1e308]):
            subject = rows(env_id("OddReward-v0"), 2, autoreset_mode=mode, rewards=rewards)
            subject.reset(seed=20)
            for _ in range(2):
                subject.step(np.zeros(2, np.int64))
            assert subject.figures()[:2] == (0, 2), rewards
            assert not any(subject.figures()[2:]), rewards
            assert [length for _, length in subject.recent()] == [2, 2]
        subject = rows(env_id("OddReward-v0"), 1, autoreset_mode=mode, rewards=[-1.5, -0.5])
        subject.reset(seed=20)
        for _ in range(2):
            subject.step(np.zeros(1, np.int64))
        assert subject.figures() == (1, 0, 2, 0.0, 2.0)

    # Calls and attributes

    def test_calls_give_one_result_a_row(self, rows):
        """Methods get their arguments, attributes are read, in the order of rows."""
        subject = rows(COUNT, 4, shards=2 if self.takes_part_of_a_pool else 1)
        subject.reset(seed=70)
        assert subject.call("add", 2, b=3) == [75, 76, 77, 78]
        assert subject.call("identity") == [70, 71, 72, 73]
        assert_same(subject.call("echo", np.eye(2)), [np.eye(2)] * 4, "echo")

    def test_attributes_are_set_row_by_row(self, rows):
        """Each row gets its own value, and its next observation shows it."""
        subject = rows(COUNT, 4, shards=2 if self.takes_part_of_a_pool else 1)
        subject.reset(seed=1)
        subject.assign("tag", [1.0, 2.0, 3.0, 4.0])
        assert subject.call("tag") == [1.0, 2.0, 3.0, 4.0]
        assert subject.step(np.zeros(4, np.int64))[0][:, 5].tolist() == [1.0, 2.0, 3.0, 4.0]

    def test_some_rows_are_called_and_the_others_are_not(self, rows):
        """By their number in the pool; a method that changes its environment changes those alone."""
        subject = rows(COUNT, 4, shards=2 if self.takes_part_of_a_pool else 1)
        subject.reset(seed=70)
        assert subject.call_some([1, 3], "add", 2) == [73, 75]
        assert subject.call_some([2], "identity") == [72]
        assert subject.call_some([], "identity") == []
        subject.call_some([0, 2], "set_wrapper_attr", "tag", 5.0)
        assert subject.call("tag") == [5.0, 0.0, 5.0, 0.0]

    def test_attributes_are_set_in_some_rows_and_not_in_the_others(self, rows):
        """One value for each of the rows."""
        subject = rows(COUNT, 4, shards=2 if self.takes_part_of_a_pool else 1)
        subject.reset(seed=1)
        subject.assign_some([0, 3], "tag", [1.0, 4.0])
        assert subject.call("tag") == [1.0, 0.0, 0.0, 4.0]

    def test_the_wrappers_around_an_environment_are_named(self, rows):
        """The classes of all of them and their bases, outermost first."""
        subject = rows("CartPole-v1", 2)
        names = [f"gymnasium.wrappers.common:{name}" for name in ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker")]
        for found in (subject.call("__wrapper_classes__")[1], *subject.call_some([0], "__wrapper_classes__")):
            assert [name for name in found if name in names] == names
            assert found.count("gymnasium.core:Wrapper") == 3

    def test_frames_come_by_the_number_of_the_row(self, pair):
        """Some rows or all, by their number in the pool."""
        subject, oracle = pair(COUNT, 4, render_mode="rgb_array", shards=2 if self.takes_part_of_a_pool else 1)
        for envs in (subject, oracle):
            envs.reset(seed=50)
            envs.step(np.array([0, 1, 2, 3]))
        frames = list(oracle.render())
        assert_same(subject.render(), frames, "all frames")
        assert_same(subject.render([1, 3]), [frames[1], frames[3]], "frames of rows 1 and 3")
        assert subject.render([]) == []

    def test_it_describes_its_environments(self, rows):
        """Spaces, metadata and render mode are those of one environment."""
        info = rows(env_id("Nested-v0"), 3, render_mode="rgb_array").info
        env = gym.make(env_id("Nested-v0"), render_mode="rgb_array")
        assert info.observation_space == env.observation_space
        assert info.action_space == env.action_space
        # before 1.4 Gymnasium's vector environments write their mode into the metadata of the environment's class
        found, own = ({**metadata, "autoreset_mode": None} for metadata in (info.metadata, env.metadata))
        assert (found, info.render_mode) == (own, "rgb_array")

    # Environments that raise

    def check_fault(self, fault: dict[str, Any], kind: str, row: int) -> None:
        assert fault["row"] == row
        assert fault["type"] == FAULT_TYPES[kind]
        assert FAULT_MESSAGE in fault["message"]
        assert "environments.py" in fault["traceback"]
        assert "in fail\n" in fault["traceback"]

    @pytest.mark.parametrize("kind", FAULT_KINDS)
    @pytest.mark.parametrize("where", ["step", "reset", "render", "call"])
    def test_what_an_environment_raises_is_data(self, pair, where, kind):
        """Row, type, message and traceback come out whatever was raised, and the next reset works."""
        at = {"step": 2, "reset": 0}.get(where, 1)
        subject, oracle = pair(RAISE, 3, where=where, at=at, seed=11, kind=kind, render_mode="rgb_array")
        if where != "reset":
            subject.reset(seed=10)
            subject.step(np.array([0, 1, 2]))
        fault = self.fault(
            *{
                "step": (subject.step, np.array([2, 1, 0])),
                "reset": (lambda: subject.reset(seed=10),),
                "render": (subject.render,),
                "call": (subject.call, "touch"),
            }[where]
        )
        self.check_fault(fault, kind, row=1)
        assert run_both(subject, oracle, 12, seed=20) > 0

    @pytest.mark.parametrize("kind", FAULT_KINDS)
    def test_an_environment_that_cannot_be_made_is_data(self, kind):
        """The error names row, type and message, and nothing is left of the rows before."""
        with pytest.raises(RowFaults) as caught:
            EngineRows(self.engine, RAISE, 3, where="init", kind=kind)
        self.check_fault(caught.value.faults[0], kind, row=0)

    def test_environments_with_different_spaces_are_refused(self, opened):
        """Rows of one pool have one space."""
        with pytest.raises(RowFaults) as caught:
            opened.enter_context(closing(EngineRows(self.engine, "vectest/Growing-v0", 3)))
        assert "space" in caught.value.faults[0]["message"]

    @in_every_mode
    def test_the_other_rows_step_on(self, pair, mode):
        """What the rows that did not raise gave is in the slot, and the faulty row shows its last observation."""
        self.skip_unless(self.steps_the_others, "steps_the_others")
        subject, oracle = pair(RAISE, 5, at=3, seed=12, autoreset_mode=mode, length=9)
        oracle.envs[2].unwrapped._at = None
        for envs in (subject, oracle):
            envs.reset(seed=10)
            for _ in range(2):
                last = envs.step(np.array([0, 1, 2, 3, 4]))[0]
        assert self.fault(subject.step, np.array([4, 3, 2, 1, 0]))["row"] == 2
        expected = oracle.step(np.array([4, 3, 2, 1, 0]))
        slot, others = subject.views.slots[subject.slot], [0, 1, 3, 4]
        assert_same(subject.observations()[others], expected[0][others], "observations of the others")
        assert_same(slot.rewards[others], expected[1][others], "rewards of the others")
        assert_same(subject.observations()[2], last[2], "observation of the row that raised")
        assert (slot.rewards[2], slot.terminated[2], slot.truncated[2]) == (0.0, False, False)

    def test_after_a_fault_a_mask_keeps_the_last_observations(self, rows):
        """Rows outside the mask show the last observation they gave, the one that raised included."""
        self.skip_unless(self.steps_the_others, "steps_the_others")
        subject = rows(RAISE, 3, at=4, seed=11, length=9)
        subject.reset(seed=10)
        for _ in range(3):
            last = subject.step(np.zeros(3, np.int64))[0]
        self.fault(subject.step, np.zeros(3, np.int64))
        observations, _ = subject.reset(options={"reset_mask": np.array([True, False, False])})
        assert_same(observations[1], last[1], "observation of the row that raised")
        assert observations[:, 2].tolist() == [0.0, 3.0, 4.0]

    def test_all_faults_of_a_batch_are_reported(self, rows):
        """When every row raises, every row is named."""
        subject = rows(RAISE, 3, at=2)
        subject.reset(seed=1)
        subject.step(np.zeros(3, np.int64))
        with pytest.raises(RowFaults) as caught:
            subject.step(np.zeros(3, np.int64))
        named = [fault["row"] for fault in caught.value.faults]
        assert named == [0, 1, 2] if self.steps_the_others else set(named) <= {0, 1, 2}

    def test_a_missing_attribute_is_named(self, rows):
        """A call of what is not there is a fault with its name."""
        fault = self.fault(rows(COUNT, 2).call, "no_such_method")
        assert fault["type"] == "AttributeError"
        assert "no_such_method" in fault["message"]

    def test_a_bad_call_leaves_the_episodes_alone(self, pair):
        """Rows step on where they were after a call that failed."""
        self.skip_unless(self.survives_a_bad_call, "survives_a_bad_call")
        subject, oracle = pair(COUNT, 3)
        for envs in (subject, oracle):
            envs.reset(seed=1)
        self.fault(subject.call, "no_such_method")
        self.fault(subject.call, "add")
        actions = np.array([1, 2, 3])
        assert_same(subject.step(actions), oracle.step(actions), "step")

    @pytest.mark.parametrize(
        "observation",
        [np.zeros(1), np.zeros(5), np.zeros((6, 1)), 3.0, None, "text"],
        ids=["one number", "too short", "too deep", "a number", "nothing", "text"],
    )
    def test_an_observation_that_does_not_fit_is_refused(self, rows, observation):
        """It is a fault of its row, not stretched over it; a right one is taken again."""
        self.skip_unless(self.refuses_odd_observations, "refuses_odd_observations")
        subject = rows("vectest/OddObservation-v0", 3, observation=observation, seed=11, length=9)
        subject.reset(seed=10)
        subject.step(np.zeros(3, np.int64))
        fault = self.fault(subject.step, np.zeros(3, np.int64))
        assert fault["row"] == (1 if self.steps_the_others else 0)
        subject.reset(seed=20)
        subject.step(np.zeros(3, np.int64))

    # Closing

    def test_it_can_be_closed_at_once_and_twice(self, rows):
        """``close`` needs no reset before it and does nothing the second time."""
        for engine in rows(COUNT, 3).engines:
            engine.close()
            engine.close()

    def test_an_environment_that_cannot_be_closed_does_not_matter(self, rows):
        """``close`` returns whatever the environments raise."""
        self.skip_unless(self.closes_whatever_happens, "closes_whatever_happens")
        rows("vectest/StuckDoor-v0", 2).close()


def _nested_actions(num_envs: int) -> dict[str, np.ndarray]:
    return {"a": np.ones(num_envs, np.int64), "b": np.zeros((num_envs, 2), np.float32)}
