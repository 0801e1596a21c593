"""Infos of every engine: equal to Gymnasium's, whatever is in them, and as many as were asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.compare import assert_same, assert_same_batch
from tests.contract.engine_contract import EngineRows
from tests.contract.infos import KeepsOptions, assert_same_infos, make_filtered
from tests.contract.vector_contract import COUNT, DISABLED, NEXT_STEP, RAISE, SAME_STEP, in_every_mode, make_oracle
from tests.info_environments import CASES, ODD_INFOS, UNMERGEABLE, OddInfosEnv
from tests.wire.strategies import fixed
from tests.wire.test_infos import infos as random_infos
from vecserver.engine import episodes
from vecserver.engine.base import RowFaults
from vecserver.engine.infos import InfoOptions
from vecserver.wire.errors import EnvFault

OLD = tuple(map(int, gym.__version__.split(".")[:2])) < (1, 4)
ENGINES = ("envs", "sync", "async")
SEED = OddInfosEnv.BASE
ROWS = 4

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Gymnasium's log of what a worker raised
]
over_engines = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def rows(opened) -> Callable[..., EngineRows]:
    """Makes engines that are closed after the test; ``envs`` in two shards."""

    def make(engine: str, *args: Any, **kwargs: Any) -> EngineRows:
        shards = 2 if engine == "envs" else 1
        return opened.enter_context(closing(EngineRows(engine, *args, shards=shards, **kwargs)))

    return make


@pytest.fixture
def oracle(opened) -> Callable[..., Any]:
    """Makes Gymnasium's vector environment, closed after the test."""
    return lambda make, *args, **kwargs: opened.enter_context(closing(make(*args, **kwargs)))


def walk(subject: Any, oracle: VectorEnv, steps: int = 12) -> int:
    """Steps both, resets by mask where nobody else does, and compares all results; returns how many episodes ended."""
    by_mask = oracle.metadata["autoreset_mode"] is DISABLED
    both = [envs.reset(seed=SEED) for envs in (subject, oracle)]
    assert_same_infos(both[0][1], both[1][1], "reset")
    ended = 0
    for number in range(steps):
        actions = np.full(subject.num_envs, number % 5)
        got, expected = subject.step(actions), oracle.step(actions)
        assert_same_batch(got, expected, f"step {number}")
        assert_same_infos(got[4], expected[4], f"step {number}: infos")
        over = expected[2] | expected[3]
        ended += int(over.sum())
        if by_mask and over.any():
            both = [envs.reset(options={"reset_mask": over.copy()}) for envs in (subject, oracle)]
            assert_same_infos(both[0][1], both[1][1], f"reset after step {number}")
    return ended


# What arrives


@over_engines
@in_every_mode
@pytest.mark.parametrize("case", [case for case in CASES if case != "not_travelling"])
def test_infos_are_gymnasiums(rows, oracle, engine, mode, case):
    """Keys, their order, masks, dtypes and nesting, for values of every kind."""
    subject = rows(engine, ODD_INFOS, ROWS, autoreset_mode=mode, case=case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of odd assignments
        assert walk(subject, oracle(make_oracle, ODD_INFOS, ROWS, autoreset_mode=mode, case=case)) >= ROWS
    assert subject.dropped == {}


@over_engines
@in_every_mode
def test_what_cannot_travel_is_left_out_and_named(rows, oracle, engine, mode):
    """The step does not fail, the rest is Gymnasium's, and every engine names the same values, pickles or not."""
    subject = rows(engine, ODD_INFOS, ROWS, autoreset_mode=mode, case="not_travelling")
    assert walk(subject, oracle(make_oracle, ODD_INFOS, ROWS, autoreset_mode=mode, case="travelling_part")) >= ROWS
    subject.reset(seed=SEED)
    expected = {
        "object": "builtins.object",
        "lock": "_thread.lock",
        "function": "builtins.function",
        "in.set": "builtins.set",
        "in.deep.generator": "builtins.generator",
        "enum": "tests.info_environments.Colour",
        "int enum": "tests.info_environments.Level",
        "complex": "builtins.complex",
        "long double": "numpy.longdouble",
        "structure": "numpy.ndarray",
        "list": "builtins.list",
        "objects": "numpy.ndarray",
        "lone surrogate": "builtins.str",
        "Colour.RED": "builtins.int",
    }
    assert subject.dropped == expected
    if mode is SAME_STEP:
        while not any(name.startswith("final_info.") for name in subject.dropped):
            subject.step(np.zeros(ROWS, np.int64))
        assert subject.dropped == expected | {f"final_info.{name}": kind for name, kind in expected.items()}


@over_engines
@pytest.mark.parametrize("case", UNMERGEABLE)
def test_infos_that_gymnasium_cannot_merge_are_its_error(rows, oracle, engine, case):
    """The exception that Gymnasium raises is the fault's type."""
    made = oracle(make_oracle, ODD_INFOS, 2, case=case, length=9)
    subject = rows(engine, ODD_INFOS, 2, case=case, length=9)
    for envs in (subject, made):
        envs.reset(seed=SEED)
        envs.step(np.zeros(2, np.int64))
    with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever numpy raises
        made.step(np.zeros(2, np.int64))
    with pytest.raises((RowFaults, EnvFault)) as caught:
        subject.step(np.zeros(2, np.int64))
    assert caught.value.faults[0]["type"] == type(expected.value).__name__


@fixed(30)
@given(st.lists(st.lists(random_infos, min_size=1, max_size=3), min_size=3, max_size=3), st.sampled_from(ENGINES[:2]))
def test_any_infos_are_gymnasiums(script, engine):
    """Random infos of three rows, with SameStep, which nests them once more."""
    kwargs = {"autoreset_mode": SAME_STEP, "script": script}
    shards = 2 if engine == "envs" else 1
    with (
        closing(EngineRows(engine, ODD_INFOS, 3, shards=shards, **kwargs)) as subject,
        closing(make_oracle(ODD_INFOS, 3, **kwargs)) as made,
    ):
        walk(subject, made, 7)


# What was asked for


@over_engines
@in_every_mode
@pytest.mark.parametrize("keys", [["steps", "nested", "nobody gives this"], ["note"], []], ids=repr)
def test_keys_choose_the_infos(rows, oracle, engine, mode, keys):
    """As if the environments gave no other infos; ``final_info`` is chosen from likewise, and ``final_obs`` stays."""
    subject = rows(engine, COUNT, 5, autoreset_mode=mode, infos=InfoOptions(keys))
    assert walk(subject, oracle(make_filtered, COUNT, 5, keys, autoreset_mode=mode), 25) >= 10


@over_engines
@in_every_mode
@pytest.mark.parametrize("info", ["none", "episode"])
def test_no_infos_leave_the_final_observations(rows, oracle, engine, mode, info):
    """``none`` and ``episode`` keep nothing of the environments' but ``final_obs``, which a trainer bootstraps from."""
    subject = rows(engine, COUNT, 5, autoreset_mode=mode, infos=InfoOptions(info))
    made = oracle(make_oracle, COUNT, 5, autoreset_mode=mode)
    ended = 0
    for envs in (subject, made):
        envs.reset(seed=SEED)
    assert b"".join(subject.payloads) == b""
    for number in range(9):
        got, expected = [envs.step(np.zeros(5, np.int64)) for envs in (subject, made)]
        assert_same(got[:4], expected[:4], f"step {number}")
        over = expected[2] | expected[3]
        wanted = {key: expected[4][key] for key in ("final_obs", "_final_obs") if key in expected[4]}
        statistics = [key for key in got[4] if key in ("episode", "_episode")]
        assert len(statistics) == (2 if info == "episode" and over.any() else 0)
        assert_same_infos({key: value for key, value in got[4].items() if key not in statistics}, wanted, "infos")
        ended += int(over.sum())
        if mode is DISABLED and over.any():
            assert [envs.reset(options={"reset_mask": over.copy()})[1] for envs in (subject, made)][0] == {}
    assert ended >= 5


@over_engines
def test_what_nobody_asked_for_is_not_encoded(rows, engine):
    """A step whose infos are left out has no payload at all, the cheapest there is."""
    subject = rows(engine, COUNT, 3, length=9, infos=InfoOptions("none"))
    subject.reset(seed=SEED)
    subject.step(np.zeros(3, np.int64))
    assert b"".join(subject.payloads) == b""


@over_engines
def test_what_was_not_asked_for_need_not_travel(rows, engine):
    """A value that cannot travel is not named where its key was left out."""
    subject = rows(engine, ODD_INFOS, 2, case="not_travelling", infos=InfoOptions(["steps", "lock"]))
    _, infos = subject.reset(seed=SEED)
    assert list(infos) == ["steps", "_steps"]
    assert subject.dropped == {"lock": "_thread.lock"}


def test_final_info_is_taken_before_the_reset(rows):
    """A chosen value that the environment overwrites at its reset shows what it was at the end."""
    chosen = InfoOptions(["many"])
    subject = rows("envs", "vectest/SharedInfo-v0", 2, autoreset_mode=SAME_STEP, length=3, infos=chosen)
    subject.reset(seed=SEED)
    for _ in range(3):
        infos = subject.step(np.zeros(2, np.int64))[4]
    assert [many[0] for many in infos["final_info"]["many"]] == [3, 3]
    assert [many[0] for many in infos["many"]] == [0, 0]


class SharedInfoEnv(OddInfosEnv):
    """Gives out one and the same list each time and overwrites it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._many = [0]

    def describe(self, action: Any) -> dict[str, Any]:
        self._many[0] = self.steps
        return {"many": self._many, "other": 1}


gym.register("vectest/SharedInfo-v0", SharedInfoEnv, disable_env_checker=True)


# Episode statistics


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The time by which both Gymnasium's wrapper and the engines measure; the test moves it."""
    clock = SimpleNamespace(now=1000.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("gymnasium.wrappers.vector.common.time", clock)
    monkeypatch.setattr(episodes, "perf_counter", clock.perf_counter)
    return clock


def with_statistics(oracle: VectorEnv) -> RecordEpisodeStatistics:
    return RecordEpisodeStatistics(KeepsOptions(oracle))


@over_engines
@in_every_mode
@pytest.mark.parametrize("name", [COUNT, "CartPole-v1"])
def test_statistics_are_those_of_gymnasiums_wrapper(rows, oracle, clock, engine, mode, name):
    """Return, length and time, their dtypes, masks and places, across the ends of episodes."""
    if OLD and mode is SAME_STEP:
        pytest.skip("Gymnasium's wrapper counts otherwise in this mode before 1.4")
    subject = rows(engine, name, 5, autoreset_mode=mode, infos=InfoOptions(episode_statistics=True))
    made = with_statistics(oracle(make_oracle, name, 5, autoreset_mode=mode))
    for envs in (subject, made):
        envs.reset(seed=SEED)
    for number in range(60):
        clock.now += 0.1234567 + number / 1000
        actions = np.full(5, number % 2)
        got, expected = subject.step(actions), made.step(actions)
        assert_same_batch(got, expected, f"step {number}")
        assert_same_infos(got[4], expected[4], f"step {number}")
        over = expected[2] | expected[3]
        if mode is DISABLED and over.any():
            clock.now += 1
            for envs in (subject, made):
                envs.reset(options={"reset_mask": over.copy()})
    assert made.episode_count >= 3


@over_engines
@in_every_mode
def test_a_reset_by_mask_starts_its_rows_anew_and_no_others(rows, oracle, clock, engine, mode):
    """In the middle of episodes and at their ends, whole and by mask."""
    subject = rows(engine, COUNT, 4, autoreset_mode=mode, infos=InfoOptions("episode"))
    made = with_statistics(oracle(make_oracle, COUNT, 4, autoreset_mode=mode))
    reported = 0
    for envs in (subject, made):
        envs.reset(seed=SEED)
    for number in range(40):
        clock.now += 0.5
        got, expected = [envs.step(np.full(4, number % 5)) for envs in (subject, made)]
        wanted = {
            key: expected[4][key] for key in ("final_obs", "_final_obs", "episode", "_episode") if key in expected[4]
        }
        assert_same_infos(got[4], wanted, f"step {number}")
        reported += "episode" in got[4]
        over = expected[2] | expected[3]
        mask = (over if mode is DISABLED else np.zeros(4, np.bool_)) | (np.arange(4) == number % 7)
        if number == 20:
            for envs in (subject, made):
                envs.reset(seed=SEED + 1)
        elif mask.any():
            clock.now += 0.25
            for envs in (subject, made):
                envs.reset(options={"reset_mask": mask.copy()})
    assert reported >= 4


@over_engines
@in_every_mode
def test_an_environment_with_statistics_of_its_own_is_told(rows, engine, mode):
    """Infos with the key ``episode`` are an error that says what to leave out, as Gymnasium's wrapper raises one."""
    subject = rows(
        engine, ODD_INFOS, 2, case="odd_keys", autoreset_mode=mode, infos=InfoOptions(episode_statistics=True)
    )
    subject.reset(seed=SEED)
    with pytest.raises(RowFaults) as caught:
        subject.step(np.zeros(2, np.int64))
    assert caught.value.faults[0]["type"] == "ValueError"
    assert "have the key 'episode'" in caught.value.faults[0]["message"]


@over_engines
def test_infos_that_are_left_out_cannot_be_in_the_way(rows, engine):
    """With ``info="episode"``, or keys without it, an environment's ``episode`` does not matter."""
    for options in (InfoOptions("episode"), InfoOptions(["a"], episode_statistics=True)):
        subject = rows(engine, ODD_INFOS, 2, case="odd_keys", length=2, infos=options)
        subject.reset(seed=SEED)
        subject.step(np.zeros(2, np.int64))
        assert subject.step(np.zeros(2, np.int64))[4]["episode"]["l"].tolist() == [2, 2]


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP, DISABLED], ids=lambda mode: mode.name.lower())
def test_a_row_that_raised_goes_on_with_its_episode(rows, mode):
    """A step that raised counts for the rows that stepped and not for the row that did not."""
    subject = rows("envs", RAISE, 3, at=2, seed=SEED + 1, length=4, autoreset_mode=mode, infos=InfoOptions("episode"))
    subject.reset(seed=SEED)
    lengths = {}
    for _ in range(5):
        try:
            infos = subject.step(np.zeros(3, np.int64))[4]
        except RowFaults as faults:
            assert [fault["row"] for fault in faults.faults] == [1]
            subject.call("set_wrapper_attr", "_at", None)
            continue
        if "episode" in infos:
            lengths |= {row: int(infos["episode"]["l"][row]) for row in np.flatnonzero(infos["_episode"])}
        if mode is DISABLED and "episode" in infos:
            subject.reset(options={"reset_mask": infos["_episode"]})
    assert lengths == {0: 4, 1: 4, 2: 4}
