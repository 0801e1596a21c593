"""The comparison that ``vecserver verify`` makes: its canonical form, its script, and that it can fail."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import tests.cli.unsteady_environments
from tests.contract.compare import assert_same
from tests.wire.strategies import fixed, values
from vecserver.cli.equality.canonical import encode, fingerprints, first_mismatch, path_text, without
from vecserver.cli.equality.fresh import Recording, play
from vecserver.cli.equality.local import Question, families, local_envs, sample_actions, script_for, try_out
from vecserver.cli.equality.report import (
    Difference,
    EnvReport,
    ExitStatus,
    ModeReport,
    Outcome,
    Result,
    exit_status,
    lines,
)
from vecserver.cli.equality.script import Reset, Script, Step
from vecserver.cli.equality.side_by_side import Contestant, compare, row_of
from vecserver.cli.equality.verification import Combinations, verify

MODES = [mode.value for mode in AutoresetMode]


def equal(a, b):
    """Whether two values are the same; all three ways to ask must agree."""
    same = encode(a) == encode(b)
    assert (first_mismatch(a, b) is None) == same
    assert (fingerprints(a) == fingerprints(b)) == same
    return same


def reordered(value):
    """The same value, its dicts in another order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if type(value) is list else value


class Pair(NamedTuple):
    left: object
    right: object


class Opaque:
    pass


QUIET, OTHER_NAN = (np.array([bits], np.uint64).view(np.float64) for bits in (0x7FF8000000000000, 0x7FF8000000000001))

DIFFERENT = {
    "dtype": (np.zeros(2, np.float32), np.zeros(2, np.float64)),
    "byte order": (np.zeros(2, "<f8"), np.zeros(2, ">f8")),
    "shape": (np.zeros((2, 1)), np.zeros((1, 2))),
    "empty shape": (np.zeros((0, 2)), np.zeros((0, 3))),
    "array and list": (np.zeros(2), [0.0, 0.0]),
    "array and scalar": (np.array(1.0), np.float64(1.0)),
    "scalar and number": (np.float64(1.0), 1.0),
    "minus zero": (np.array([-0.0]), np.array([0.0])),
    "minus zero, alone": (-0.0, 0.0),
    "bits of a NaN": (QUIET, OTHER_NAN),
    "bits of a NaN, alone": (float(QUIET[0]), float(OTHER_NAN[0])),
    "bool and int": (True, 1),
    "text and bytes": ("a", b"a"),
    "none and text": (None, "None"),
    "tuple and list": ((1, 2), [1, 2]),
    "tuple and named tuple": ((1, 2), Pair(1, 2)),
    "graph": (spaces.GraphInstance(np.zeros(2), None, None), spaces.GraphInstance(np.zeros(2), np.zeros(0), None)),
    "length": ((1, 2), (1, 2, 3)),
    "nesting": ([[1], 2], [[1, 2]]),
    "key": ({"a": 1}, {"b": 1}),
    "more keys": ({"a": 1}, {"a": 1, "_a": True}),
    "type of a key": ({"1": 1}, {1: 1}),
    "mask": ({"a": 1, "_a": np.array([True, False])}, {"a": 1, "_a": np.array([True, True])}),
    "element of an object array": (np.array([None, "a"], object), np.array([None, "b"], object)),
    "object and number array": (np.array([1, 2], object), np.array([1, 2])),
    "set": ({1, 2}, {1, 3}),
    "set and frozen set": ({1}, frozenset({1})),
    "type of an object": (Opaque(), object()),
}


class TestCanonicalForm:
    @pytest.mark.parametrize("name", DIFFERENT)
    def test_it_notices(self, name):
        """Each of these is a difference, both ways round and deep inside, and each value equals its own copy."""
        left, right = DIFFERENT[name]
        for a, b in ((left, right), (right, left), ({"x": [left]}, {"x": [right]})):
            assert not equal(a, b)
        assert equal(left, deepcopy(left))
        assert equal(right, deepcopy(right))

    @given(values)
    @fixed(300)
    def test_a_copy_is_equal_whatever_the_order_of_its_keys(self, value):
        """NaNs of every payload, empty arrays and strided ones included."""
        assert equal(value, reordered(deepcopy(value)))

    @given(values, values)
    @fixed(300)
    def test_what_is_equal_is_the_same_to_the_bit(self, a, b):
        """The comparison of the contract's tests, which is written in another way, agrees."""
        if equal(a, b):
            assert_same(a, b)

    @given(st.data())
    @fixed(200)
    def test_one_changed_bit_is_found_where_it_is(self, data):
        """In an array deep inside, with the path of the element."""
        shape = data.draw(st.sampled_from([(), (3,), (2, 3), (1, 2, 2)]))
        array = np.arange(int(np.prod(shape)), dtype=data.draw(st.sampled_from(["u1", "<f4", ">i8"]))).reshape(shape)
        index = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
        other = array.copy()
        raw = other.reshape(-1).view(np.uint8).reshape(*shape, array.itemsize)
        raw[index][data.draw(st.integers(0, array.itemsize - 1))] ^= 1 << data.draw(st.integers(0, 7))
        found = first_mismatch({"z": 1, "a": (None, other)}, {"a": (None, array), "z": 1})
        assert found.path == ("a", 1, *index)

    def test_objects_of_unknown_types_are_equal_when_their_types_are(self):
        """Their address differs from process to process, and says nothing."""
        assert equal([Opaque()], [Opaque()])

    def test_a_value_that_holds_itself_has_a_form(self):
        """It is cut off in the depth."""
        endless = []
        endless.append(endless)
        assert equal(endless, endless)

    def test_a_missing_key_is_named(self):
        """With the value that was expected, or that came without being expected."""
        found = first_mismatch({"a": 1}, {"a": 1, "b": {"c": 2.5}})
        assert (found.path, found.got, found.expected) == (("b",), "missing", "{'c': 2.5}")
        found = first_mismatch({"x": {"a": 1, "b": 3}}, {"x": {"a": 1}})
        assert (found.path, found.got, found.expected) == (("x", "b"), "3", "no such key")

    def test_values_that_look_alike_are_told_apart(self):
        """By type, or by their bytes."""
        assert first_mismatch(np.array([-0.0]), np.array([0.0])).got == "np.float64(-0.0)"
        assert "bytes 010000000000f87f" in first_mismatch(OTHER_NAN, QUIET).got
        assert first_mismatch(Opaque(), object()).got.startswith("<")
        assert first_mismatch(np.zeros(2, np.float32), np.zeros(2)).got == "float32 array of 2: [0., 0.]"
        assert len(first_mismatch("a" * 10_000, "b" * 10_000).expected) < 100

    def test_a_path_reads_like_code(self):
        """Keys are quoted, indices are not."""
        assert path_text(("final_obs", 3, "pair", 0)) == "['final_obs'][3]['pair'][0]"

    def test_dropped_infos_are_left_out_with_their_masks(self):
        """By path, and nothing else is."""
        infos = {"a": 1, "_a": 2, "deep": {"a": 3, "_a": 4, "b": 5}, "_deep": 6, "ab": 7}
        assert without(infos, ["a"]) == {"deep": infos["deep"], "_deep": 6, "ab": 7}
        assert without(infos, ["deep.a"]) == {"a": 1, "_a": 2, "deep": {"b": 5}, "_deep": 6, "ab": 7}
        assert without(infos, ["deep"]) == {"a": 1, "_a": 2, "ab": 7}
        assert without(infos, []) == infos
        assert without({"\ud800": 1}, ["?"]) == {}

    @given(values)
    @fixed(100)
    def test_a_recording_survives_its_line_of_json(self, value):
        """It is compared after it came out of another process."""
        recording = Recording.of({"observations": value, "infos": {"x": value}})
        same = Recording.from_line(recording.to_line().encode())
        assert recording.first_difference(same) is None
        assert json.loads(recording.to_line())


class TestRows:
    @pytest.mark.parametrize(
        ("field", "path", "space", "row"),
        [
            ("rewards", (3,), spaces.Discrete(2), 3),
            ("rewards", (), spaces.Discrete(2), None),
            ("infos", ("a", 2, 0), spaces.Discrete(2), 2),
            ("infos", ("a", "b"), spaces.Discrete(2), None),
            ("observations", (4, 1, 1), spaces.Box(0, 1, (2, 2)), 4),
            ("observations", ("a", 1, 2), spaces.Dict(a=spaces.Tuple([spaces.Discrete(2)] * 2)), 2),
            ("observations", ("a",), spaces.Dict(a=spaces.Discrete(2)), None),
            ("observations", (1, 2, 0), spaces.Tuple([spaces.Discrete(2), spaces.Text(3)]), 2),
            ("observations", (2, "nodes"), spaces.Graph(spaces.Discrete(2), None), 2),
            ("observations", ("b",), spaces.Dict(a=spaces.Discrete(2)), None),
        ],
    )
    def test_the_row_of_a_place_follows_from_the_space(self, field, path, space, row):
        """Batches of dicts and tuples have their rows inside, all others outside."""
        assert row_of(field, path, space) == row


class TestScript:
    def run(self, by_mask, over):
        script = Script(list("abcdefghij"), 3, 40, by_mask=by_mask)
        seen = []
        for operation in script:
            seen.append(operation)
            if isinstance(operation, Step):
                script.note({"terminated": np.array(over), "truncated": np.zeros(3, bool)})
        return seen

    def test_every_kind_of_reset_is_part_of_it(self):
        """All rows and some, seeded and not, with a list that holds None; each batch of actions is stepped once."""
        seen = self.run(by_mask=False, over=[True, False, False])
        assert [operation.actions for operation in seen if isinstance(operation, Step)] == list("abcdefghij")
        assert [operation for operation in seen if isinstance(operation, Reset)] == [
            Reset(0, 40),
            Reset(2, mask=[True, False, True]),
            Reset(4, 1040),
            Reset(6, [40, None, 54]),
            Reset(8, [None, 1041, 1042], [True, False, True]),
        ]

    def test_rows_that_ended_are_reset_by_mask_where_nobody_else_does(self):
        """Right after each step that ended one."""
        seen = self.run(by_mask=True, over=[False, True, False])
        masks = [b.mask for a, b in zip(seen, seen[1:], strict=False) if isinstance(a, Step)]
        assert masks == [[False, True, False]] * 10

    def test_a_run_of_one_step_has_all_resets_too(self):
        """They come after it."""
        assert [type(one) for one in Script(["a"], 1, 0, by_mask=False)] == [Reset, Step, Reset, Reset, Reset, Reset]

    def test_a_reset_says_what_it_does(self):
        """Its label stands in messages."""
        assert Reset(0, 7).label == "reset(seed=7) at the start"
        assert Reset(3, [1, None], [False, True]).label == "reset(seed=[1, None], rows [1]) after step 3"


class FakePool:
    """A SyncVectorEnv in the place of a pool, with a mistake."""

    def __init__(self, question, mode):
        self.envs = SyncVectorEnv([question.maker()] * question.num_envs, autoreset_mode=AutoresetMode(mode))
        self.dropped_infos = {}
        self.steps = 0

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        self.steps += 1
        return self.spoil(self.envs.step(self.actions))

    def reset_async(self, seed=None, options=None):
        self.arguments = {"seed": seed, "options": options}

    def reset_wait(self):
        return self.envs.reset(**self.arguments)

    def spoil(self, result):
        return result


class SwapsRows(FakePool):
    """Gives rows 1 and 2 each other's rewards from step 3 on."""

    def spoil(self, result):
        if self.steps >= 3:
            result[1][[1, 2]] = result[1][[2, 1]]
        return result


class IsLate(FakePool):
    """Returns what the step before returned."""

    last = None

    def spoil(self, result):
        self.last, late = result, self.last or result
        return late


class LosesAMask(FakePool):
    """Forgets the mask of one info in step 2."""

    def spoil(self, result):
        if self.steps == 2:
            del result[4]["_steps"]
        return result


class WrongDtype(FakePool):
    """Its rewards are float32."""

    def spoil(self, result):
        return (result[0], result[1].astype(np.float32), *result[2:])


class Raises(FakePool):
    """Fails in step 4."""

    def spoil(self, result):
        if self.steps == 4:
            raise ConnectionError("the pool is gone")
        return result


class Drops(FakePool):
    """Leaves an info out and says so."""

    def spoil(self, result):
        self.dropped_infos = {"steps": "some.Type"}
        del result[4]["steps"], result[4]["_steps"]
        return result


def asked(env_id="vectest/Count-v0", steps=20, num_envs=4, **env_kwargs):
    return Question(env_id=env_id, env_kwargs=env_kwargs, num_envs=num_envs, steps=steps, seed=3)


def compared(pools, mode="NextStep", question=None, recordings=None):
    """Plays the script with fake pools; their outcomes, in order, and the report."""
    question = question or asked()
    actions = sample_actions(question)
    local = local_envs(question, mode)
    contestants = [Contestant("fake", "none", pool(question, mode), local.single_observation_space) for pool in pools]
    recordings = recordings or list(play(question, mode, actions))
    script = script_for(question, actions, mode)
    report = compare(mode, local, script, recordings, contestants, lambda step: None)
    return [contestant.outcome for contestant in contestants], report


class TestThatItCanFail:
    @pytest.mark.parametrize("mode", MODES)
    def test_a_pool_that_makes_no_mistake_is_equal(self, mode):
        """Its hashes are the expected side's."""
        (outcome,), report = compared([FakePool], mode)
        assert (outcome.result, outcome.difference, outcome.hashes) == (Result.EQUAL, None, report.hashes)
        assert len(set(report.hashes.values())) == 5

    def test_swapped_rows_are_found_and_named(self):
        """The first step, the first of the two rows, the field and both values; the other fields' hashes are equal."""
        (outcome,), report = compared([SwapsRows])
        assert outcome.result is Result.DIFFERS
        found = outcome.difference
        assert (found.step, found.operation, found.row, found.field, found.path) == (3, "step 3", 1, "rewards", "[1]")
        assert found.got.startswith("np.float64(")
        assert found.got != found.expected
        differing = [name for name, value in outcome.hashes.items() if value != report.hashes[name]]
        assert differing == ["rewards"]

    def test_a_pool_that_is_late_by_a_step_is_found(self):
        """In the first step in which it could show, in the observation's count of steps."""
        (outcome,), _ = compared([IsLate])
        found = outcome.difference
        assert (found.step, found.row, found.field, found.path) == (2, 0, "observations", "[0][2]")
        assert (found.got, found.expected) == ("np.float64(1.0)", "np.float64(2.0)")

    def test_a_lost_mask_is_named(self):
        """As the key that is missing."""
        (outcome,), _ = compared([LosesAMask])
        assert (outcome.difference.step, outcome.difference.path) == (2, "['_steps']")
        assert outcome.difference.got == "missing"

    def test_another_dtype_is_a_difference_of_all_rows(self):
        """Even where every number is the same."""
        (outcome,), _ = compared([WrongDtype])
        assert (outcome.difference.step, outcome.difference.row, outcome.difference.field) == (1, None, "rewards")
        assert "float32" in outcome.difference.got

    def test_an_error_ends_a_pools_run_and_nobody_elses(self):
        """It is told with the operation that met it."""
        (raising, right), _ = compared([Raises, FakePool])
        assert (raising.result, right.result) == (Result.FAILED, Result.EQUAL)
        assert raising.reason == "step 4: ConnectionError: the pool is gone"

    def test_dropped_infos_are_excused(self):
        """They are noted, and everything else is still compared."""
        (outcome,), _ = compared([Drops])
        assert (outcome.result, outcome.dropped) == (Result.EQUAL, {"steps": "some.Type"})


class TestDeterminism:
    def test_no_pool_is_blamed_for_an_environment_that_is_not_deterministic(self):
        """The expected side is compared with another run of itself first; here that run had another seed."""
        question = asked()
        other = list(
            play(
                Question(env_id=question.env_id, env_kwargs={}, num_envs=4, steps=20, seed=4),
                "NextStep",
                sample_actions(question),
            )
        )
        (outcome,), report = compared([SwapsRows], recordings=other)
        assert outcome.difference is None
        assert (report.unsteady.step, report.unsteady.field, report.unsteady.path) == (0, "observations", "[0]")
        summary = EnvReport.of("x", [report])
        assert summary.result is Result.UNSTEADY
        assert summary.reason.endswith("NextStep, reset(seed=3) at the start, row 0, observations[0]")

    def test_an_environment_that_raises_is_not_a_pools_fault(self):
        """Nor is it called not deterministic, when it raises in a fresh process too."""
        question = asked("vectest/Raise-v0", where="step", at=2)
        _, report = compared([], question=question)
        assert report.reason == "step 2 in a SyncVectorEnv: ValueError: broken on purpose"
        assert EnvReport.of("x", [report]).result is Result.RAISES

    def test_an_environment_that_reuses_its_buffers_is_shown_right(self):
        """The expected side copies final observations and infos before the reset that overwrites them."""
        reusing, fresh = (
            compared([], "SameStep", asked(f"vectest/{name}-v0"))[1].hashes for name in ("ReusedBuffer", "Count")
        )
        assert reusing == fresh

    def test_rows_that_gymnasium_does_not_put_together_are_not_a_pools_fault(self):
        """Nothing is compared, and it says why."""
        over = Combinations(
            engines=["envs"],
            transports=["tcp"],
            autoreset_modes=MODES,
            url="http://127.0.0.1:1",
            tolerates_unreachable=False,
        )
        report = verify(asked("vectest/Growing-v0"), over, Silence())
        assert report.result is Result.RAISES
        assert report.reason.startswith(
            ("NextStep, making a SyncVectorEnv: RuntimeError: ", "NextStep, making a SyncVectorEnv: AssertionError: ")
        )


class Silence:
    def begin(self, what, steps):
        pass

    def advance(self, step):
        pass

    def say(self, line):
        pass


class TestEnvironments:
    def test_all_are_those_of_the_three_families(self):
        """Old versions too; nothing that needs another package."""
        found = families()
        assert {"CartPole-v0", "CartPole-v1", "FrozenLake-v1", "Blackjack-v1", "LunarLander-v3", "CarRacing-v3"} <= set(
            found
        )
        assert not [env_id for env_id in found if env_id.startswith(("vectest", "Ant", "Humanoid", "phys2d"))]

    def test_what_cannot_be_made_says_why(self):
        """On one line."""
        assert try_out(asked("vectest/Missing-v0")) == "DependencyNotInstalled: no such package"
        assert try_out(asked("vectest/Raise-v0", where="reset", at=0)) == "ValueError: broken on purpose"
        assert try_out(asked()) is None


def environment(result, env_id="A-v0"):
    return EnvReport(env_id, result)


class TestReport:
    @pytest.mark.parametrize(
        ("results", "named", "status"),
        [
            ([Result.EQUAL], ["A-v0"], ExitStatus.EQUAL),
            ([Result.EQUAL, Result.SKIPPED], [], ExitStatus.EQUAL),
            ([Result.EQUAL, Result.SKIPPED], ["A-v0"], ExitStatus.NOT_VERIFIED),
            ([Result.SKIPPED], [], ExitStatus.NOT_VERIFIED),
            ([Result.EQUAL, Result.RAISES], [], ExitStatus.NOT_VERIFIED),
            ([Result.EQUAL, Result.UNSTEADY, Result.SKIPPED], ["A-v0"], ExitStatus.UNSTEADY),
            ([Result.EQUAL, Result.UNSTEADY, Result.DIFFERS], [], ExitStatus.DIFFERS),
        ],
    )
    def test_the_exit_status_names_the_worst(self, results, named, status):
        """A difference is worse than an environment that cannot be judged, and both are worse than a skipped one."""
        assert exit_status([environment(result) for result in results], named) is status

    def test_a_transport_that_does_not_reach_the_server_is_no_difference(self):
        """As long as another one does."""
        outcomes = [Outcome("envs", "ipc", Result.UNAVAILABLE), Outcome("envs", "tcp", Result.EQUAL)]
        assert EnvReport.of("x", [ModeReport("NextStep", outcomes=outcomes)]).result is Result.EQUAL
        assert EnvReport.of("x", [ModeReport("NextStep", outcomes=outcomes[:1])]).result is Result.UNAVAILABLE

    def test_the_text_has_a_line_a_combination_and_what_differs_below(self):
        """Each fits a terminal of 80 columns, the difference apart."""
        hashes = dict.fromkeys(("observations", "rewards", "terminated", "truncated", "infos"), "0123456789abcdef" * 2)
        found = Difference(7, "step 7", 3, "rewards", "[3]", "np.float64(1.0)", "np.float64(2.0)")
        outcomes = [
            Outcome("envs", "ipc", Result.EQUAL, hashes, dropped={"lock": "_thread.lock"}),
            Outcome("async", "tcp", Result.DIFFERS, hashes, difference=found),
        ]
        text = lines([EnvReport.of("CartPole-v1", [ModeReport("NextStep", hashes, outcomes)])])
        assert text[1] == "CartPole-v1: differs"
        assert text[3].split() == ["NextStep", "expected", *["01234567"] * 5]
        assert text[4].split()[:4] == ["envs", "ipc", "equal", "01234567"]
        assert text[6] == "    step 7, row 3, rewards[3]: got np.float64(1.0), expected np.float64(2.0)"
        assert text[7] == "  not compared, because it cannot travel: the info 'lock' (_thread.lock)"
        assert max(map(len, text[:5])) <= 80

    def test_what_cannot_be_judged_has_no_table(self):
        """It would blame a pool."""
        text = lines([EnvReport("B-v0", Result.SKIPPED, "no such package", [ModeReport("NextStep")])])
        assert text == ["", "B-v0: skipped (no such package)"]


def test_the_environments_of_these_tests_are_registered():
    """Here by import, elsewhere by their full name."""
    assert {f"vectest/{name}" for name in tests.cli.unsteady_environments.ENVIRONMENTS} <= set(gymnasium.registry)
