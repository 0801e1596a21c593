"""The engine ``native``: what it returns is what the vector environment itself returns, in process."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from tests.contract.compare import assert_same, run_both
from tests.contract.engine_contract import REAL_ENVIRONMENTS, EngineContract, EngineRows
from tests.contract.vector_contract import COUNT, DISABLED, NEXT_STEP, SAME_STEP, in_every_mode
from tests.vector_environments import DEEP_TALLY, TALLY
from vecserver.engine.base import RowFaults
from vecserver.engine.finals import FinalCopies
from vecserver.engine.infos import InfoOptions
from vecserver.engine.make import EnvMaker
from vecserver.engine.table import resolve
from vecserver.wire.codec import unpack
from vecserver.wire.errors import InvalidSpec
from vecserver.wire.infos import MERGED_ROWS, SHARD_ROWS

CARTPOLE = "CartPole-v1"


def separate(
    env_id: str, num_envs: int, autoreset_mode: AutoresetMode, max_episode_steps: int | None = None, **kwargs: Any
) -> VectorEnv:
    """A vector environment of separate environments: the engine must leave it what it is."""
    del max_episode_steps  # the environments have it from their own registration
    return SyncVectorEnv([lambda: FinalCopies(gym.make(env_id, **kwargs))] * num_envs, autoreset_mode=autoreset_mode)


class TestNative(EngineContract):
    """Over ``SyncVectorEnv`` in the place of a vector environment, with which the whole contract can be asked for."""

    engine = "native"
    steps_the_others = False  # nor does the vector environment
    accepts_one_element_rewards = False  # nor does it
    merges_infos = True

    @pytest.fixture(autouse=True)
    def _separate(self, monkeypatch):
        ids = [known for known in gym.registry if known.startswith("vectest/")]
        for known in [*ids, *(name for name, *_ in REAL_ENVIRONMENTS)]:
            if gym.registry[known].entry_point is not None:
                spec = dataclasses.replace(gym.registry[known], vector_entry_point=partial(separate, known))
                monkeypatch.setitem(gym.registry, known, spec)

    def check_fault(self, fault, kind, row):
        """The row is the shard's first: a vector environment does not say which of its rows raised."""
        super().check_fault({**fault, "row": row}, kind, row)
        assert fault["row"] == 0

    def test_infos_name_their_rows(self, rows):
        """A payload holds merged infos, and whose they are where these are not all rows."""
        for shards, expected in ((1, [MERGED_ROWS]), (2, [SHARD_ROWS, MERGED_ROWS] * 2)):
            subject = rows(COUNT, 4, shards=shards)
            for run in (partial(subject.reset, seed=1), partial(subject.step, np.zeros(4, np.int64))):
                run()
                assert [row for payload in subject.payloads for row, _ in unpack(payload)] == expected

    # no single environments: see the tests below
    test_rows_may_differ_in_their_bounds = None
    test_some_rows_are_called_and_the_others_are_not = None
    test_attributes_are_set_in_some_rows_and_not_in_the_others = None
    test_the_wrappers_around_an_environment_are_named = None


@pytest.fixture
def native():
    """Makes engines and, for the oracle, the same vector environment in this process; closed after the test."""
    opened = []

    def make(env: str, num_envs: int, mode: AutoresetMode = NEXT_STEP, **options: Any) -> tuple[EngineRows, Any]:
        shards = options.pop("shards", 1)
        infos = options.pop("infos", InfoOptions())
        render_mode = options.pop("render_mode", None)
        subject = EngineRows(
            "native", env, num_envs, autoreset_mode=mode, shards=shards, infos=infos, render_mode=render_mode, **options
        )
        opened.append(subject)
        opened.append(Oracle(EnvMaker(env, options, render_mode).vector(num_envs, mode)))
        return subject, opened[-1]

    yield make
    for each in opened:
        each.close()


class Oracle:
    """The vector environment in process, with its rewards in the dtype of a pool's."""

    def __init__(self, envs: VectorEnv) -> None:
        self.envs, self.metadata, self.action_space = envs, envs.metadata, envs.action_space
        self.reset, self.render, self.close = envs.reset, envs.render, envs.close

    def step(self, actions: Any) -> Any:
        observations, rewards, *others = self.envs.step(actions)
        return observations, rewards.astype(np.float64), *others


def fault_of(command: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    with pytest.raises(RowFaults) as caught:
        command(*args, **kwargs)
    return caught.value.faults[0]


# What it returns


@in_every_mode
@pytest.mark.parametrize("env", [TALLY, DEEP_TALLY])
def test_every_result_equals_the_vector_environment(native, env, mode):
    """Observations, rewards as float64, flags and infos are the same to the bit."""
    assert run_both(*native(env, 7, mode), 40, seed=3) >= 40


@pytest.mark.parametrize("num_envs", [1, 64])
def test_cartpole_equals_its_vector_environment(native, num_envs):
    """Gymnasium's own, with one generator for all rows."""
    assert run_both(*native(CARTPOLE, num_envs), 120, seed=5) >= 2


def test_cartpoles_numbers_are_not_those_of_seeded_environments(native):
    """Which is why nothing chooses this engine by itself."""
    with closing(SyncVectorEnv([lambda: gym.make(CARTPOLE)] * 4)) as separate_envs:
        observations = [envs.reset(seed=1)[0] for envs in (native(CARTPOLE, 4)[0], separate_envs)]
    assert not np.array_equal(*observations)
    assert resolve("auto") == "envs"


def test_each_shard_is_a_vector_environment_with_the_seed_of_its_first_row(native):
    """Rows 0 to 2 with the seed, rows 3 to 6 with the seed + 3."""
    subject, _ = native(CARTPOLE, 7, shards=2)
    parts = [gym.make_vec(CARTPOLE, size, vectorization_mode="vector_entry_point") for size in (3, 4)]
    with closing(parts[0]), closing(parts[1]):
        expected = np.concatenate([parts[0].reset(seed=9)[0], parts[1].reset(seed=12)[0]])
        assert_same(subject.reset(seed=9)[0], expected, "reset")
        for _ in range(30):
            actions = np.random.default_rng(1).integers(0, 2, 7)
            results = zip(parts[0].step(actions[:3]), parts[1].step(actions[3:]), strict=True)
            expected = [np.concatenate(pair) for pair in [*results][:4]]
            expected[1] = expected[1].astype(np.float64)
            assert_same(list(subject.step(actions)[:4]), expected, "step")


def test_infos_of_shards_are_put_together(native):
    """An array of all rows a key, with the masks that there were, and nested ones likewise."""
    subject, _ = native(TALLY, 5, SAME_STEP, shards=2)
    assert subject.reset(seed=1)[1]["begun"].tolist() == [True] * 5
    seen = set()
    for _ in range(12):
        infos = subject.step(np.full(5, 2))[4]
        seen |= infos.keys()
        assert infos["step"].shape == (5,)
        assert "_step" not in infos
        assert infos["_odd"].tolist() == (infos["odd"] / 2 % 2 == 1).tolist()
        if "final_obs" in infos:
            over = infos["_final_obs"]
            assert infos["final_info"]["_step"].tolist() == over.tolist() == infos["_final_info"].tolist()
            assert infos["final_obs"][over][:, 2].tolist() == infos["final_info"]["step"][over].tolist()
    assert "final_obs" in seen


@pytest.mark.parametrize("dtype", ["float64", "int32", "float16"])
def test_rewards_of_any_dtype_are_float64(native, dtype):
    """Without a change of their value."""
    assert run_both(*native(TALLY, 3, reward_dtype=dtype), 12, seed=2) > 0


@in_every_mode
def test_autoreset_marks_the_rows_that_were_reset_in_a_step(native, mode):
    """With NextStep the rows that were reset instead of stepped, with SameStep those that ended, else none."""
    subject, _ = native(TALLY, 5, mode)
    subject.reset(seed=3)
    over, marked = np.zeros(5, np.bool_), 0
    for _ in range(12):
        before = over
        over = np.logical_or(*subject.step(np.full(5, 2))[2:4])
        expected = {NEXT_STEP: before, SAME_STEP: over, DISABLED: np.zeros(5, np.bool_)}[mode]
        assert subject.autoreset() == expected.tolist()
        marked += sum(subject.autoreset())
        if mode is DISABLED and over.any():
            subject.reset(options={"reset_mask": over})
    assert marked >= (0 if mode is DISABLED else 5)


def test_infos_are_sent_as_they_are_asked_for(native):
    """Some keys with their masks, or none; what an episode ends with always."""
    for info, keys in (("none", {"final_obs", "_final_obs"}), (["odd"], {"odd", "_odd", "final_obs", "_final_obs"})):
        subject, _ = native(TALLY, 3, SAME_STEP, infos=InfoOptions(info))
        subject.reset(seed=1)
        seen = set()
        for _ in range(8):
            seen |= subject.step(np.full(3, 2))[4].keys()
        assert seen - {"final_info", "_final_info"} == keys
        assert ("final_info" in seen) == (info != "none")


def test_episode_statistics_equal_gymnasiums_wrapper(native):
    """Returns and lengths, from rewards of float32."""
    subject, oracle = native(TALLY, 3, infos=InfoOptions("episode"))
    wrapped = gym.wrappers.vector.RecordEpisodeStatistics(oracle.envs)
    both = (subject, wrapped)
    for envs in both:
        envs.reset(seed=1)
    ended = 0
    for _ in range(15):
        found = [envs.step(np.full(3, 5))[4].get("episode") for envs in both]
        if found[1] is not None:
            assert_same(*[{name: each[name] for name in "rl"} for each in found], "episode")
            ended += 1
    assert ended >= 3


# Actions


def test_rows_that_are_reset_may_be_sent_anything(native):
    """The vector environment never sees a value outside its space: ALE would hang on it and EnvPool end the process."""
    subject, _ = native(TALLY, 3)
    subject.reset(seed=1)
    over = np.zeros(3, np.bool_)
    for _ in range(12):
        subject.format.check = lambda *_: None  # as where the driver knows which rows are reset
        over = np.logical_or(*subject.step(np.where(over, 99, 3))[2:4])
    assert subject.counted()[1] >= 3


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32])
def test_integers_arrive_in_the_dtype_of_the_action_space(native, dtype):
    """Some vector environments take no other."""
    subject, oracle = native(TALLY, 3)
    assert_same(subject.reset(seed=1), oracle.reset(seed=1), "reset")
    for _ in range(5):
        actions = np.array([2, 4, 6])
        assert_same(subject.step(actions.astype(dtype)), oracle.step(actions), "step")


# Resets


@in_every_mode
def test_a_mask_resets_its_rows_and_no_other(native, mode):
    """Where the vector environment looks at it, in shards too, some of which have nothing to reset then."""
    subject, oracle = native(TALLY, 5, mode)
    run_both(subject, oracle, 2, seed=3)
    for bits in ([1, 0, 0, 0, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 1]):
        mask = np.array(bits, np.bool_)
        both = [envs.reset(options={"reset_mask": mask.copy()}) for envs in (subject, oracle)]
        assert_same(*both, f"reset by {bits}")
        assert_same(*[envs.step(np.full(5, 3)) for envs in (subject, oracle)], "step")
    sharded, _ = native(TALLY, 5, mode, shards=2)
    before = sharded.reset(seed=3)[0]
    after, infos = sharded.reset(options={"reset_mask": np.array([0, 0, 0, 1, 0], np.bool_)})
    assert (before[:, 1] == 1).all()
    assert after[:, 1].tolist() == [1, 1, 1, 2, 1]
    assert infos["begun"].tolist() == [False, False, False, True, False]


def test_a_vector_environment_that_resets_all_rows_at_once_is_found_out(native):
    """The first time its rows are lost, and that is said; then it is refused before anything is done."""
    for options in ({"env": CARTPOLE}, {"env": TALLY, "masks": False}):
        subject, oracle = native(options.pop("env"), 3, **options)
        subject.reset(seed=1)
        mask = np.array([True, False, False])
        fault = fault_of(subject.reset, options={"reset_mask": mask})
        assert (fault["type"], "Reset all rows" in fault["message"]) == ("ValueError", True)
        assert fault_of(subject.step, subject.engines[0].info.action_space.sample() + np.zeros(3, np.int64))[
            "type"
        ] == ("ResetNeeded")
        assert_same(subject.reset(seed=2)[0], oracle.reset(seed=2)[0], "reset")
        assert "nothing was done" in fault_of(subject.reset, options={"reset_mask": mask})["message"]
        actions = oracle.action_space.sample()
        assert_same(subject.step(actions)[0], oracle.step(actions)[0], "step")
        everything = {"reset_mask": np.ones(3, np.bool_)}
        assert_same(subject.reset(seed=4, options=everything)[0], oracle.reset(seed=4)[0], "reset of all rows by mask")


@pytest.mark.parametrize("seeds", ["list", "array"])
def test_a_seed_a_row_goes_in_the_form_that_is_taken(native, seeds):
    """A list, or an array with one for each row that is reset."""
    subject, oracle = native(TALLY, 3, seeds=seeds)
    given = [5, 1, 9] if seeds == "list" else np.array([5, 1, 9])
    assert_same(subject.reset(seed=[5, 1, 9]), oracle.reset(seed=given), "reset")
    mask = np.array([True, False, True])
    given = [5, None, 9] if seeds == "list" else np.array([5, 9])
    both = (
        subject.reset(seed=[5, None, 9], options={"reset_mask": mask}),
        oracle.reset(seed=given, options={"reset_mask": mask}),
    )
    assert_same(*both, "reset by mask")


@pytest.mark.parametrize("env", [CARTPOLE, TALLY])
def test_a_seed_a_row_is_refused_where_all_rows_have_one(native, env):
    """With what to do instead; the episodes stay as they are."""
    subject, oracle = native(env, 3)
    for envs in (subject, oracle):
        envs.reset(seed=1)
    for seeds in ([1, 2, 4], [None, 2, 3]):
        fault = fault_of(subject.reset, seed=seeds)
        assert (fault["type"], "give one number" in fault["message"]) == ("ValueError", True)
    actions = oracle.action_space.sample()
    assert_same(subject.step(actions)[0], oracle.step(actions)[0], "step")


def test_options_go_to_the_vector_environment(native):
    """One dict for all rows; CartPole's bounds of its first state."""
    subject, oracle = native(CARTPOLE, 3)
    options = {"low": 0.01, "high": 0.02}
    assert_same(*[envs.reset(seed=1, options=dict(options)) for envs in (subject, oracle)], "reset")
    assert (subject.observations() >= 0.01).all()


# Making


@pytest.mark.parametrize(
    ("env", "mode", "said"),
    [
        (CARTPOLE, SAME_STEP, "has the autoreset mode"),
        (CARTPOLE, DISABLED, "has the autoreset mode"),
        ("vectest/Modeless-v0", NEXT_STEP, "does not say"),
    ],
)
def test_a_vector_environment_of_another_autoreset_mode_is_refused(env, mode, said):
    """The mode is the pool's, not what happens to be there."""
    with pytest.raises(InvalidSpec, match=said) as caught:
        EngineRows("native", env, 3, autoreset_mode=mode)
    assert caught.value.details["field"] == "autoreset_mode"


def test_an_environment_without_one_is_refused():
    """By the name of the option that asked for it."""
    with pytest.raises(InvalidSpec, match="vector_entry_point") as caught:
        EngineRows("native", "Pendulum-v1", 3)
    assert caught.value.details["field"] == "engine"


def test_a_vector_environment_that_cannot_be_made_is_data():
    """The constructor's own error."""
    with pytest.raises(RowFaults) as caught:
        EngineRows("native", TALLY, 3, no_such_option=1)
    assert "no_such_option" in caught.value.faults[0]["message"]


# What goes wrong


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("raises", "RuntimeError", "broken on purpose"),
        ("observations", "ValueError", r"observations of shape (2, 4) where (3, 4) is right"),
        ("rewards", "ValueError", r"rewards of shape (2,) where (3,) is right"),
        ("short", "ValueError", "not enough values"),
    ],
)
def test_a_step_that_goes_wrong_is_a_fault_and_needs_a_reset(native, how, kind, said):
    """Whatever the vector environment raised or gave; the next reset works."""
    subject, oracle = native(TALLY, 3, breaks=3, how=how)
    subject.reset(seed=1)
    for _ in range(2):
        subject.step(np.full(3, 2))
    fault = fault_of(subject.step, np.full(3, 2))
    assert fault["type"] == kind
    assert said in fault["message"]
    assert fault_of(subject.step, np.full(3, 2))["type"] == "ResetNeeded"
    assert fault_of(subject.reset, options={"reset_mask": np.array([True, False, False])})["type"] == "ResetNeeded"
    assert_same(subject.reset(seed=7)[0][:, 0], oracle.reset(seed=7)[0][:, 0], "reset")
    subject.step(np.full(3, 2))


# Calls


def test_frames_come_by_the_number_of_the_row(native):
    """From each shard its own."""
    subject, _ = native(TALLY, 4, shards=2, render_mode="rgb_array")
    assert [frame[0, 0, 0] for frame in subject.render()] == [0, 1, 0, 1]
    assert [frame[0, 0, 0] for frame in subject.render([1, 2])] == [1, 0]


def test_calls_go_where_there_is_something_to_call(native):
    """To a vector environment with a ``call``, for all its rows; elsewhere the error says that there is none."""
    subject, _ = native(DEEP_TALLY, 3)
    assert subject.call("name", 1) == [("name", 1, 0), ("name", 1, 1), ("name", 1, 2)]
    subject.assign("tags", [1.0, 2.0, 3.0])
    assert subject.call("tags") == [1.0, 2.0, 3.0]
    assert fault_of(subject.call, "fail")["message"] == "failed on purpose"
    assert "of all its rows alone" in fault_of(subject.call_some, [0, 2], "name")["message"]
    assert subject.call("__wrapper_classes__") == [[], [], []]
    bare, _ = native(TALLY, 3)
    for command in (partial(bare.call, "tags"), partial(bare.assign, "tags", [1, 2, 3])):
        fault = fault_of(command)
        assert (fault["type"], "'tags'" in fault["message"]) == ("AttributeError", True)
    subject.reset(seed=1)
    subject.step(np.full(3, 2))
