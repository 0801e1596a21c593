"""The contract that every vector environment of this project keeps: it is Gymnasium's, bit for bit.

Inherit ``VectorEnvContract`` in a class whose name starts with ``Test`` and override ``make``::

    class TestOverTcp(VectorEnvContract):
        @pytest.fixture(autouse=True)
        def _connect(self, server):          # a module- or session-scoped fixture
            self.server = server

        def make(self, env_id, num_envs, *, autoreset_mode=AutoresetMode.NEXT_STEP, **env_kwargs):
            return make_vec(env_id, num_envs, url=self.server.url, autoreset_mode=autoreset_mode, **env_kwargs)

What ``make`` returns is closed after each test, before any fixture is torn down. A class attribute that is set to False
declares a part of the contract that the subject does not keep; its tests are then skipped.

The oracle is Gymnasium's ``SyncVectorEnv`` over the same environments; where that one is wrong itself, the test says what
is right.
"""

from __future__ import annotations

import multiprocessing
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from tests.contract.compare import assert_same, assert_same_batch, run_both
from tests.environments import FAULT_KINDS, FAULT_MESSAGE, env_id

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
COUNT, RAISE = env_id("Count-v0"), env_id("Raise-v0")
FAULT_LIMIT_S = 20.0
TAXI = "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"
ACTION_ERRORS = (ValueError, TypeError, gym.error.Error)
TIMEOUTS = (TimeoutError, multiprocessing.TimeoutError)

TEST_ENVIRONMENTS = [
    ("Count-v0", 7, {}),
    ("Count-v0", 1, {}),
    ("Count-v0", 3, {"with_infos": False}),
    ("Count-v0", 5, {"odd_info": True}),
    ("CountBox-v0", 3, {}),
    ("Nested-v0", 5, {}),
    ("NestedTuple-v0", 3, {}),
    ("Keeper-v0", 3, {}),
    ("Keeper-v0", 3, {"writes": True}),
    ("Big-v0", 3, {}),
]
SIDE_ENVIRONMENTS = [
    ("Text-v0", 3, {}),
    ("Graph-v0", 3, {}),
    ("Sequence-v0", 3, {}),
    ("Sequence-v0", 3, {"stack": True}),
    ("OneOf-v0", 3, {}),
    ("Custom-v0", 3, {}),
    ("Mixed-v0", 5, {}),
]
NO_FIXED_SIZE = {name for name, _, _ in SIDE_ENVIRONMENTS}
REAL_ENVIRONMENTS = [
    ("CartPole-v1", 5, 80),
    ("Pendulum-v1", 3, 205),
    ("Acrobot-v1", 3, 505),
    ("MountainCar-v0", 3, 205),
    ("MountainCarContinuous-v0", 3, 1005),
    ("LunarLander-v3", 3, 160),
    ("BipedalWalker-v3", 3, 160),
    ("FrozenLake-v1", 5, 60),
    (TAXI, 3, 205),
]
BAD_ACTIONS = {
    "a row too many": ("Count-v0", np.zeros(4, np.int64)),
    "a row too few": ("Count-v0", np.zeros(2, np.int64)),
    "no rows": ("Count-v0", np.int64(0)),
    "a dimension too many": ("Count-v0", np.zeros((3, 1), np.int64)),
    "fractions": ("Count-v0", np.array([0.0, 1.0, 2.5])),
    "text": ("Count-v0", np.array(["0", "1", "2"])),
    "nothing": ("Count-v0", None),
    "above the range": ("Count-v0", np.array([0, 5, 1])),
    "below the range": ("Count-v0", np.array([0, 1, -1])),
    "wide rows": ("CountBox-v0", np.zeros((3, 3), np.float32)),
    "flat rows": ("CountBox-v0", np.zeros(3, np.float32)),
    "one row": ("CountBox-v0", np.zeros(2, np.float32)),
    "complex numbers": ("CountBox-v0", np.zeros((3, 2), np.complex64)),
    "a part missing": ("Nested-v0", {"a": np.zeros(3, np.int64)}),
    "a part too short": ("Nested-v0", {"a": np.zeros(2, np.int64), "b": np.zeros((3, 2), np.float32)}),
    "a part out of range": ("Nested-v0", {"a": np.array([0, 3, 0]), "b": np.zeros((3, 2), np.float32)}),
    "an array for a tuple": ("NestedTuple-v0", np.zeros(3, np.int64)),
    "a text too few": ("Text-v0", ["a", "b"]),
    "a text too long": ("Text-v0", ["a", "b" * 8, "c"]),
    "a text of other characters": ("Text-v0", ["a", "b", "-"]),
    "a number for a text": ("Text-v0", np.zeros(3, np.int64)),
    "a text that cannot travel": ("Text-v0", ["a", "b", "\ud800"]),
    "a link to no node": (
        "Graph-v0",
        [spaces.GraphInstance(np.array([0, 1]), np.zeros((1, 3), np.float32), np.array([[0, 2]]))] * 3,
    ),
    "a list for a sequence": ("Sequence-v0", [[np.array([1, 1])]] * 3),
    "a space that is not there": ("OneOf-v0", [(3, 1)] * 3),
}
BAD_MASKS = {
    "a list": [True, False, True],
    "too short": np.array([True, False]),
    "of integers": np.array([1, 0, 1]),
    "all false": np.zeros(3, np.bool_),
}

Maker = Callable[..., Any]

in_every_mode = pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED], ids=lambda mode: mode.name.lower())


def make_oracle(
    env_id: str, num_envs: int, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs: Any
) -> SyncVectorEnv:
    """The vector environment that is right by definition."""
    return SyncVectorEnv([partial(gym.make, env_id, **env_kwargs)] * num_envs, autoreset_mode=autoreset_mode)


def arrays_in(value: Any) -> Iterator[np.ndarray]:
    """All arrays in a nested value, those inside object arrays included."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, np.ndarray):
        yield value
        value = tuple(value.flat) if value.dtype.hasobject else ()
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)


def fault_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Exception:
    """The error that a call raises because an environment raised, within the time allowed."""
    started = time.monotonic()
    with pytest.raises(Exception, match=FAULT_MESSAGE) as caught:
        call(*args, **kwargs)
    assert time.monotonic() - started < FAULT_LIMIT_S
    return caught.value


def step_until_an_end(*both: VectorEnv) -> np.ndarray:
    """Steps all with action 0 until an episode ended somewhere, and gives back where."""
    for _ in range(10):
        results = [envs.step(np.zeros(envs.num_envs, np.int64)) for envs in both]
        over = np.logical_or(results[0][2], results[0][3])
        if over.any():
            return over
    raise AssertionError("no episode ended")


class VectorEnvContract:
    """Tests of one implementation; see the module's docstring."""

    checks_actions = True
    """Refuses actions of a wrong length, shape, dtype or value before anything is stepped."""
    leaves_actions_alone = True
    """Neither changes the caller's action array nor lets an environment see later changes of it."""
    names_rows = True
    """The error of a faulty environment names its row."""
    survives_faults = True
    """Can be reset and stepped again after an environment raised."""
    fault_kinds: tuple[str, ...] = FAULT_KINDS
    """Kinds of error that an environment may raise without the caller losing the message."""
    keeps_reset_options = True
    """Leaves the dict given as ``options`` as it was."""
    saves_final_observations = True
    """``final_obs`` stays right for an environment that reuses its observation's buffer."""
    accepts_one_element_rewards = True
    """Takes rewards of shape (1,), and flags that are ``np.bool_``."""
    resumes_step_wait = True
    """After a ``step_wait`` that timed out, the next one gives the same step's result."""
    renders_rows = True
    """``render`` takes the rows that are wanted."""
    takes_every_space = True
    """Runs environments whose observations and actions have no fixed size."""
    runs_real_environments = True
    """Also run Gymnasium's own environments, which takes seconds."""

    def make(
        self, env_id: str, num_envs: int, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs: Any
    ) -> VectorEnv:
        """Makes the subject; override this."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self) -> Iterator[ExitStack]:
        """Closes vector environments after the test, each of them even where another's ``close`` raises."""
        with ExitStack() as stack:
            yield stack

    @pytest.fixture
    def subject(self, opened: ExitStack) -> Maker:
        """Makes subjects that are closed after the test."""

        def make_one(*args: Any, **kwargs: Any) -> VectorEnv:
            return opened.enter_context(closing(self.make(*args, **kwargs)))

        return make_one

    @pytest.fixture
    def pair(self, subject: Maker, opened: ExitStack) -> Maker:
        """Makes a subject and its oracle, to be closed after the test."""

        def make_two(*args: Any, **kwargs: Any) -> tuple[VectorEnv, VectorEnv]:
            oracle = opened.enter_context(closing(make_oracle(*args, **kwargs)))
            return subject(*args, **kwargs), oracle

        return make_two

    def skip_unless(self, declared: bool, what: str) -> None:
        if not declared:
            pytest.skip(f"declared off: {what}")

    # What a step returns

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), TEST_ENVIRONMENTS)
    def test_every_result_equals_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
        subject, oracle = pair(env_id(name), num_envs, autoreset_mode=mode, **kwargs)
        assert run_both(subject, oracle, 25, seed=100) >= 2 * num_envs

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "kwargs"), SIDE_ENVIRONMENTS)
    def test_values_of_no_fixed_size_equal_the_oracle(self, pair, mode, name, num_envs, kwargs):
        """Texts, graphs, sequences and values of custom spaces, as observations and as actions, are the same to the bit."""
        self.skip_unless(self.takes_every_space, "takes_every_space")
        subject, oracle = pair(env_id(name), num_envs, autoreset_mode=mode, **kwargs)
        assert run_both(subject, oracle, 25, seed=100) >= 2 * num_envs

    @in_every_mode
    @pytest.mark.parametrize(("name", "num_envs", "steps"), REAL_ENVIRONMENTS)
    def test_real_environments_equal_the_oracle(self, pair, mode, name, num_envs, steps):
        """Gymnasium's own environments give the same to the bit, across the ends of episodes."""
        self.skip_unless(self.runs_real_environments, "runs_real_environments")
        subject, oracle = pair(name, num_envs, autoreset_mode=mode)
        assert run_both(subject, oracle, steps, seed=7) > 0

    def test_an_image_environment_equals_the_oracle(self, pair):
        """CarRacing, slow and with large observations, gives the same to the bit."""
        self.skip_unless(self.runs_real_environments, "runs_real_environments")
        run_both(*pair("CarRacing-v3", 2), 4, seed=7)

    @in_every_mode
    def test_a_reused_observation_buffer_changes_nothing(self, pair, subject, mode):
        """An environment that overwrites its observation gives what one with fresh arrays gives, ``final_obs`` included."""
        self.skip_unless(self.saves_final_observations or mode is not SAME_STEP, "saves_final_observations")
        reusing = subject(env_id("ReusedBuffer-v0"), 5, autoreset_mode=mode)
        assert run_both(reusing, pair(COUNT, 5, autoreset_mode=mode)[1], 25, seed=100) >= 10

    @in_every_mode
    def test_one_element_rewards_and_numpy_flags_are_numbers(self, pair, subject, mode):
        """Rewards of shape (1,) and ``np.bool_`` flags give what floats and bools give."""
        self.skip_unless(self.accepts_one_element_rewards, "accepts_one_element_rewards")
        name = env_id("OneReward-v0")
        plain = pair(name, 3, autoreset_mode=mode, plain=True)[1]
        assert run_both(subject(name, 3, autoreset_mode=mode), plain, 25, seed=100) >= 6

    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
    def test_actions_arrive_in_the_dtype_they_were_sent_in(self, pair, dtype):
        """A float64 action for a float32 space reaches the environment unrounded, as Gymnasium hands it on."""
        rng = np.random.default_rng(3)
        run_both(*pair(env_id("Float64Action-v0"), 3), 12, change=lambda _: rng.normal(size=(3, 1)).astype(dtype))

    def test_box_actions_may_lie_beyond_the_bounds(self, pair):
        """Actions outside a Box reach the environment as they are."""
        run_both(*pair(env_id("CountBox-v0"), 3), 12, change=lambda actions: actions * np.float32(1e6))

    def test_actions_may_be_a_list(self, pair):
        """A list of actions is as good as an array."""
        run_both(*pair(COUNT, 3, with_infos=False), 12, change=list)

    def test_actions_belong_to_the_caller(self, subject):
        """An environment's writes do not reach the caller's array, nor the caller's later writes the environment."""
        self.skip_unless(self.leaves_actions_alone, "leaves_actions_alone")
        envs = subject(env_id("Keeper-v0"), 3, writes=True)
        envs.reset(seed=10)
        actions = np.full((3, 2), 0.5, np.float32)
        for value in (0.25, 0.125, 0.0):
            before = actions.copy()
            observations = envs.step(actions)[0]
            assert_same(actions, before, "actions")
            assert_same(observations[:, 5], np.zeros(3), "changes of a kept action")
            actions[:] = value

    @in_every_mode
    @pytest.mark.parametrize(
        "name", ["Count-v0", "Nested-v0", "NestedTuple-v0", "Text-v0", "Graph-v0", "Sequence-v0", "OneOf-v0"]
    )
    def test_results_have_the_declared_shapes_and_dtypes(self, subject, mode, name):
        """Observations lie in their space, rewards are float64, flags are bool, all of them one a row."""
        self.skip_unless(self.takes_every_space or name < "Graph-v0", "takes_every_space")
        envs = subject(env_id(name), 3, autoreset_mode=mode)
        observations, infos = envs.reset(seed=0)
        assert envs.observation_space.contains(observations)
        assert isinstance(infos, dict)
        observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(observations)
        for array, dtype in ((rewards, np.float64), (terminations, np.bool_), (truncations, np.bool_)):
            assert (array.shape, array.dtype) == ((3,), dtype)
        assert isinstance(infos, dict)

    @in_every_mode
    @pytest.mark.parametrize("name", ["Count-v0", "Nested-v0", "Graph-v0"])
    def test_results_belong_to_the_caller(self, pair, mode, name):
        """Later steps and resets leave a result as it was, and writing into it changes no later result."""
        self.skip_unless(self.takes_every_space or name not in NO_FIXED_SIZE, "takes_every_space")
        subject, oracle = pair(env_id(name), 3, autoreset_mode=mode, length=4)
        actions = oracle.action_space.sample()
        mine = [subject.reset(seed=5), *[subject.step(actions) for _ in range(4)]]
        before = deepcopy(mine)
        run_both(subject, oracle, 10, seed=6)
        assert_same(mine, before, "earlier results")
        run_both(subject, oracle, 2, seed=7)
        mine.append(subject.step(actions))
        oracle.step(actions)
        for array in arrays_in(mine):
            assert array.flags.writeable
            array.fill(0)
        mask = np.array([True, False, False])
        both = [envs.reset(options={"reset_mask": mask.copy()}) for envs in (subject, oracle)]
        assert_same(*both, "reset by mask after writing into results")
        assert_same_batch(subject.step(actions), oracle.step(actions), "step after writing into results")

    def test_the_action_of_a_row_that_is_being_reset_means_nothing(self, pair):
        """The step after an end resets its row, whatever stands in the row's action; any other row's is looked at."""
        subject, oracle = pair(COUNT, 5)
        for envs in (subject, oracle):
            envs.reset(seed=30)
        over = step_until_an_end(subject, oracle)
        assert_same_batch(*[envs.step(np.where(over, 99, 1)) for envs in (subject, oracle)], "step with a reset in it")
        over = step_until_an_end(subject, oracle)
        both = [envs.reset(options={"reset_mask": over.copy()}) for envs in (subject, oracle)]
        assert_same(*both, "reset by mask instead")
        if self.checks_actions:
            with pytest.raises(ACTION_ERRORS):
                subject.step(np.where(over, 99, 1))
        assert_same_batch(*[envs.step(np.ones(5, np.int64)) for envs in (subject, oracle)], "step after both")

    # Resets

    def test_seeds_may_be_given_row_by_row(self, pair):
        """A list of seeds seeds its rows; None leaves a row as it is."""
        subject, oracle = pair(COUNT, 3)
        for seeds in ([5, None, 9], [None, 4, None], [None, None, None]):
            run_both(subject, oracle, 5, seed=seeds)

    def test_a_reset_without_a_seed_starts_the_next_episodes(self, pair):
        """Without a seed each row goes on with its own generator."""
        subject, oracle = pair(COUNT, 3)
        for seed in (4, None, None, 6):
            run_both(subject, oracle, 3, seed=seed)

    @pytest.mark.parametrize("seeds", [[1, 2], [1, 2, 3, 4]])
    def test_a_list_of_seeds_of_the_wrong_length_is_refused(self, subject, seeds):
        """As many seeds as rows, or a ``ValueError``."""
        with pytest.raises(ValueError, match="seed"):
            subject(COUNT, 3).reset(seed=seeds)

    def test_reset_options_reach_every_environment(self, pair):
        """Options arrive unchanged, and without the mask."""
        mask = np.array([True, False, True])
        for extra in ({}, {"reset_mask": mask}):
            options = {"mark": 3, "path": ["a", 2.5]}
            both = pair(COUNT, 3)
            for envs in both:
                envs.reset(seed=4)
            assert_same(*[envs.reset(seed=5, options=deepcopy(options | extra)) for envs in both], "reset with options")

    @in_every_mode
    def test_a_mask_resets_its_rows_and_no_other(self, pair, mode):
        """Masked rows start anew with their seeds; the others give back their last observation and go on."""
        subject, oracle = pair(COUNT, 5, autoreset_mode=mode, length=6)
        run_both(subject, oracle, 3, seed=20)
        for seeds in (None, [None, 40, 41, None, 42], 60):
            mask = np.array([False, True, True, False, True])
            results = [envs.reset(seed=seeds, options={"reset_mask": mask.copy()}) for envs in (subject, oracle)]
            assert_same(*results, "reset by mask")
            actions = np.array([4, 0, 1, 2, 3])
            assert_same_batch(subject.step(actions), oracle.step(actions), "step after a reset by mask")

    @pytest.mark.parametrize("by_mask", [False, True], ids=["of all rows", "by mask"])
    def test_a_reset_takes_the_place_of_a_due_autoreset(self, pair, by_mask):
        """A row that was reset when its episode was over steps next, and is not reset a second time."""
        subject, oracle = pair(COUNT, 5)
        for envs in (subject, oracle):
            envs.reset(seed=30)
        over = step_until_an_end(subject, oracle)
        options = {"reset_mask": over} if by_mask else None
        assert_same(*[envs.reset(options=deepcopy(options)) for envs in (subject, oracle)], "reset")
        actions = np.array([4, 3, 2, 1, 0])
        for number in range(3):
            assert_same_batch(subject.step(actions), oracle.step(actions), f"step {number} after the reset")

    @pytest.mark.parametrize("by_mask", [False, True], ids=["of all rows", "by mask"])
    def test_a_reset_takes_the_place_of_an_autoreset_beside_the_slot_too(self, pair, by_mask):
        """Likewise where observations have no fixed size; rows that are left out give their last values again."""
        self.skip_unless(self.takes_every_space, "takes_every_space")
        both = pair(env_id("Mixed-v0"), 5)
        assert run_both(*both, 2, seed=30) == 0
        over = np.zeros(5, np.bool_)
        while not over.any():
            actions = both[1].action_space.sample()
            results = [envs.step(deepcopy(actions)) for envs in both]
            over = np.logical_or(*results[1][2:4])
        options = {"reset_mask": over} if by_mask else None
        assert_same(*[envs.reset(options=deepcopy(options)) for envs in both], "reset")
        for number in range(3):
            actions = both[1].action_space.sample()
            assert_same_batch(*[envs.step(deepcopy(actions)) for envs in both], f"step {number} after the reset")

    def test_the_caller_keeps_its_reset_options(self, subject):
        """The dict given as options, and the mask in it, stay as they were."""
        self.skip_unless(self.keeps_reset_options, "keeps_reset_options")
        envs = subject(COUNT, 3)
        envs.reset(seed=1)
        mask = np.array([True, False, True])
        options = {"reset_mask": mask, "mark": 3}
        envs.reset(options=options)
        assert options == {"reset_mask": mask, "mark": 3}
        assert options["reset_mask"] is mask
        assert mask.tolist() == [True, False, True]

    @pytest.mark.parametrize("mask", BAD_MASKS.values(), ids=BAD_MASKS.keys())
    def test_a_mask_that_is_none_is_refused(self, subject, mask):
        """A mask is a bool array with one element a row and one of them true."""
        envs = subject(COUNT, 3)
        envs.reset(seed=1)
        with pytest.raises((TypeError, ValueError), match="reset_mask"):
            envs.reset(options={"reset_mask": mask})

    # Attributes, calls, frames

    def test_it_describes_itself_as_the_oracle_does(self, pair):
        """Number of rows, all four spaces, render mode and metadata are the oracle's."""
        for name, mode in (("Count-v0", NEXT_STEP), ("Nested-v0", SAME_STEP), ("NestedTuple-v0", DISABLED)):
            subject, oracle = pair(env_id(name), 3, autoreset_mode=mode, render_mode="rgb_array")
            assert subject.num_envs == 3
            assert subject.metadata["autoreset_mode"] is mode
            for attribute in (
                "single_observation_space",
                "observation_space",
                "single_action_space",
                "action_space",
                "render_mode",
                "metadata",
            ):
                assert getattr(subject, attribute) == getattr(oracle, attribute), attribute

    def test_calls_give_one_result_a_row(self, pair):
        """Methods get their arguments, attributes are read, and the results come in the order of rows."""
        both = pair(COUNT, 5)
        for envs in both:
            envs.reset(seed=70)
        for name, args, kwargs in (
            ("add", (2,), {"b": 3}),
            ("add", (np.arange(3), 0.5), {}),
            ("echo", ({"a": [1, (2.5, None)], "b": np.eye(2, dtype=np.float32), "c": "text"},), {}),
            ("identity", (), {}),
        ):
            assert_same(*[envs.call(name, *args, **kwargs) for envs in both], f"call({name!r})")
        assert_same(*[envs.get_attr("identity") for envs in both], "get_attr")

    def test_attributes_are_set_for_all_rows_or_row_by_row(self, pair):
        """One value sets every row, a list or tuple sets its rows, and the next observation shows it."""
        subject, oracle = pair(COUNT, 3)
        for envs in (subject, oracle):
            envs.reset(seed=2)
        for values in (1.5, [2.0, 3.0, 4.0], (5.0, 6.0, 7.0)):
            for envs in (subject, oracle):
                envs.set_attr("tag", values)
            assert_same(subject.get_attr("tag"), oracle.get_attr("tag"), "get_attr")
            actions = np.array([1, 2, 3])
            assert_same_batch(subject.step(actions), oracle.step(actions), "step after set_attr")

    @pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0, 4.0]])
    def test_attribute_values_of_the_wrong_length_are_refused(self, subject, values):
        """As many values as rows, or a ``ValueError``, and nothing is set."""
        envs = subject(COUNT, 3)
        with pytest.raises(ValueError, match=r"[Vv]alues"):
            envs.set_attr("tag", values)
        assert envs.get_attr("tag") == (0.0, 0.0, 0.0)

    def test_a_missing_attribute_is_named(self, subject):
        """Calling what is not there raises an error with its name."""
        with pytest.raises(Exception, match="no_such_method"):
            subject(COUNT, 3).call("no_such_method")

    def test_frames_come_one_a_row(self, pair):
        """``render`` gives a tuple with the current frame of every row."""
        subject, oracle = pair(COUNT, 3, render_mode="rgb_array")
        for envs in (subject, oracle):
            envs.reset(seed=50)
        for number in range(4):
            frames = oracle.render()
            assert_same(subject.render(), frames, f"frames before step {number}")
            if self.renders_rows:
                assert_same(subject.render(rows=[2, 0]), (frames[2], frames[0]), "frames of some rows")
            for envs in (subject, oracle):
                envs.step(np.array([0, 1, 2]))

    # Wrappers

    @pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP], ids=["next_step", "same_step"])
    def test_episode_statistics_equal_the_oracles(self, pair, mode):
        """``RecordEpisodeStatistics`` reports the same returns and lengths on top of either."""
        both = [RecordEpisodeStatistics(envs) for envs in pair(COUNT, 3, autoreset_mode=mode)]
        for envs in both:
            envs.reset(seed=3)
        for number in range(25):
            infos = [envs.step(np.array([0, 1, 2]))[4] for envs in both]
            for info in infos:
                info.get("episode", {}).pop("t", None)
            assert_same(*infos, f"infos of step {number}")
        assert both[0].episode_count >= 6
        assert_same(*[[*map(float, envs.return_queue), *map(int, envs.length_queue)] for envs in both], "queues")

    def test_episode_statistics_survive_a_reset_by_mask(self, subject):
        """A reset by mask clears the statistics of its rows only."""
        self.skip_unless(self.keeps_reset_options, "keeps_reset_options")
        envs = RecordEpisodeStatistics(subject(COUNT, 3, autoreset_mode=DISABLED))
        envs.reset(seed=3)
        returns, lengths, finished = np.zeros(3), np.zeros(3, int), 0
        for _ in range(25):
            _, rewards, terminations, truncations, infos = envs.step(np.array([0, 1, 2]))
            returns, lengths = returns + rewards, lengths + 1
            over = np.logical_or(terminations, truncations)
            if over.any():
                assert_same(infos["episode"]["r"], np.where(over, returns, 0.0), "returns")
                assert_same(infos["episode"]["l"], np.where(over, lengths, 0), "lengths")
                returns[over], lengths[over], finished = 0.0, 0, finished + int(over.sum())
                envs.reset(options={"reset_mask": over})
        assert finished >= 6

    # Misuse

    def test_a_step_before_any_reset_is_refused(self, subject):
        """Gymnasium's own error says that a reset is missing."""
        with pytest.raises(ResetNeeded):
            subject(COUNT, 3).step(np.zeros(3, np.int64))

    def test_a_step_past_the_end_is_refused_where_nobody_resets(self, subject):
        """With autoreset disabled, a step of a row whose episode is over raises."""
        envs = subject(COUNT, 3, autoreset_mode=DISABLED)
        envs.reset(seed=0)
        step_until_an_end(envs)
        with pytest.raises(Exception, match=r"(?i)reset|episode"):
            envs.step(np.zeros(3, np.int64))

    @pytest.mark.parametrize(("name", "actions"), BAD_ACTIONS.values(), ids=BAD_ACTIONS.keys())
    def test_a_wrong_batch_of_actions_is_refused_before_anything_is_stepped(self, pair, name, actions):
        """A batch that does not fit raises, no row is stepped, and a right one can be sent next."""
        self.skip_unless(self.checks_actions, "checks_actions")
        subject, oracle = pair(env_id(name), 3)
        for envs in (subject, oracle):
            envs.reset(seed=8)
        for call in ("step", "step_async"):
            if hasattr(subject, call):
                with pytest.raises(ACTION_ERRORS):
                    getattr(subject, call)(actions)
                    subject.step_wait()  # a value may be judged where the environments are
            right = oracle.action_space.sample()
            assert_same_batch(subject.step(deepcopy(right)), oracle.step(right), f"step after a wrong {call}")

    def test_a_second_call_while_one_is_pending_is_refused(self, pair):
        """While a step is pending nothing else is begun, and its result is not lost."""
        subject, oracle = pair(COUNT, 3)
        self.skip_unless(hasattr(subject, "step_async"), "step_async")
        for envs in (subject, oracle):
            envs.reset(seed=8)
        actions = np.array([1, 2, 3])
        subject.step_async(actions)
        for call in (
            partial(subject.step_async, actions),
            partial(subject.step, actions),
            subject.reset,
            partial(subject.call, "add", 1),
            partial(subject.set_attr, "tag", 1.0),
        ):
            with pytest.raises(AlreadyPendingCallError):
                call()
        assert_same_batch(subject.step_wait(), oracle.step(actions), "step")
        run_both(subject, oracle, 3, seed=9)

    def test_waiting_for_nothing_is_refused(self, subject):
        """Each ``_wait`` needs its ``_async``."""
        envs = subject(COUNT, 3)
        self.skip_unless(hasattr(envs, "step_async"), "step_async")
        envs.reset(seed=8)
        for name in ("step_wait", "reset_wait", "call_wait"):
            if hasattr(envs, name):
                with pytest.raises(NoAsyncCallError):
                    getattr(envs, name)()

    def test_halves_of_a_call_equal_the_whole(self, pair):
        """``step_async`` with ``step_wait``, and ``reset_async`` with ``reset_wait``, are ``step`` and ``reset``."""
        subject, oracle = pair(COUNT, 3)
        self.skip_unless(hasattr(subject, "step_async"), "step_async")
        subject.reset_async(seed=8)
        assert_same(subject.reset_wait(timeout=FAULT_LIMIT_S), oracle.reset(seed=8), "reset")
        for number in range(5):
            actions = oracle.action_space.sample()
            subject.step_async(actions)
            assert_same_batch(subject.step_wait(timeout=FAULT_LIMIT_S), oracle.step(actions), f"step {number}")

    def test_a_wait_that_timed_out_can_be_resumed(self, pair, tmp_path):
        """A ``step_wait`` that timed out loses nothing: the next one gives that step's result."""
        self.skip_unless(self.resumes_step_wait, "resumes_step_wait")
        gate = tmp_path / "gate"
        subject, oracle = pair(env_id("Slow-v0"), 3, gate=str(gate), at=2, seed=9)
        self.skip_unless(hasattr(subject, "step_async"), "step_async")
        for envs in (subject, oracle):
            envs.reset(seed=8)
            envs.step(np.array([1, 2, 3]))
        subject.step_async(np.array([3, 2, 1]))
        with pytest.raises(TIMEOUTS):
            subject.step_wait(timeout=0.2)
        gate.touch()
        assert_same_batch(subject.step_wait(timeout=FAULT_LIMIT_S), oracle.step(np.array([3, 2, 1])), "resumed step")
        assert_same_batch(subject.step(np.array([0, 0, 0])), oracle.step(np.array([0, 0, 0])), "the step after")

    # Closing

    def test_it_can_be_closed_at_once_and_twice(self, subject):
        """``close`` needs no reset before it and does nothing the second time."""
        envs = subject(COUNT, 3)
        envs.close()
        envs.close()

    def test_nothing_works_after_close(self, subject):
        """Every call on a closed vector environment raises Gymnasium's own error."""
        envs = subject(COUNT, 3)
        self.skip_unless(hasattr(envs, "step_async"), "step_async")
        envs.reset(seed=1)
        envs.close()
        for call in (
            envs.reset,
            partial(envs.step, np.zeros(3, np.int64)),
            partial(envs.call, "add", 1),
            partial(envs.get_attr, "tag"),
            partial(envs.set_attr, "tag", 1.0),
        ):
            with pytest.raises(ClosedEnvironmentError):
                call()

    def test_it_can_be_closed_while_a_step_is_pending(self, subject):
        """``close`` returns, whatever is under way; a warning about it is allowed."""
        envs = subject(COUNT, 3)
        self.skip_unless(hasattr(envs, "step_async"), "step_async")
        envs.reset(seed=1)
        envs.step_async(np.zeros(3, np.int64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            envs.close()

    # Environments that raise

    def check_fault(self, error: Exception, kind: str, row: int) -> None:
        if kind == "value":
            assert isinstance(error, ValueError)
        if self.names_rows:
            assert re.search(rf"\brow\D{{0,3}}{row}\b", str(error)), f"no row {row} in: {error}"

    @pytest.mark.parametrize("kind", FAULT_KINDS)
    @pytest.mark.parametrize("where", ["step", "reset", "render", "call"])
    def test_an_error_in_an_environment_reaches_the_caller(self, pair, where, kind):
        """The caller gets the message and the row in time, whatever the error's type, and can reset and go on."""
        self.skip_unless(kind in self.fault_kinds, f"fault_kinds, {kind}")
        at = {"step": 2, "reset": 0}.get(where, 1)
        subject, oracle = pair(RAISE, 3, where=where, at=at, seed=11, kind=kind, render_mode="rgb_array")
        if where != "reset":
            subject.reset(seed=10)
            subject.step(np.array([0, 1, 2]))
        error = fault_of(
            {
                "step": partial(subject.step, np.array([2, 1, 0])),
                "reset": partial(subject.reset, seed=10),
                "render": subject.render,
                "call": partial(subject.call, "touch"),
            }[where]
        )
        self.check_fault(error, kind, row=1)
        if self.survives_faults:
            assert run_both(subject, oracle, 12, seed=20) > 0

    @pytest.mark.parametrize("kind", FAULT_KINDS)
    def test_an_error_while_an_environment_is_made_reaches_the_caller(self, subject, kind):
        """Making the vector environment raises with the environment's message, and leaves nothing behind."""
        self.skip_unless(kind in self.fault_kinds, f"fault_kinds, {kind}")
        fault_of(subject, RAISE, 3, where="init", kind=kind)

    def test_errors_in_several_rows_name_one_of_them(self, subject):
        """When all rows raise at once the caller gets one error, in time."""
        envs = subject(RAISE, 3, where="step", at=2)
        envs.reset(seed=10)
        envs.step(np.zeros(3, np.int64))
        error = fault_of(envs.step, np.zeros(3, np.int64))
        assert isinstance(error, ValueError)
        if self.names_rows:
            assert re.search(r"\brow\D{0,3}[012]\b", str(error))
