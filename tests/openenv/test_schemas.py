"""``/schema`` is truthful: what sessions send and take is what it says."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.openenv.test_client import SEVEN
from vecserver.pools.sessions.actions import describe_actions, to_action
from vecserver.pools.sessions.answers import Kind, answer
from vecserver.pools.sessions.play import Play, PlayOptions
from vecserver.pools.sessions.schemas import schemas
from vecserver.wire.errors import InvalidAction
from vecserver.wire.json_values import to_json

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def is_valid(value, schema) -> bool:
    """Whether a value is as a schema says, for the words that schemas here use."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(isinstance(value, TYPES[kind]) for kind in kinds):
        return False
    if isinstance(value, bool) and kinds and "boolean" not in kinds:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if isinstance(value, int | float) and not schema.get("minimum", -math.inf) <= value <= schema.get(
        "maximum", math.inf
    ):
        return False
    if isinstance(value, list):
        items = schema.get("prefixItems") or [schema.get("items", {})] * len(value)
        return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)) and all(
            map(is_valid, value, items)
        )
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return (
            set(schema.get("required", ())) <= value.keys()
            and (schema.get("additionalProperties", True) or value.keys() <= known.keys())
            and all(is_valid(item, known.get(key, {})) for key, item in value.items())
        )
    return True


def loads(data):
    import orjson

    return orjson.loads(data)


@pytest.mark.parametrize(
    "env_id", [*SEVEN, "FrozenLake-v1", "Blackjack-v1", "tests.openenv.harmful_environments:harmful/Nested-v0"]
)
def test_messages_are_as_the_schema_says(env_id):
    """Of a reset, a step and the state, with a random action in the form that the schema gives it."""
    play = Play(PlayOptions(env_id=env_id))
    described = loads(answer(play, 1, b"").data)
    action = loads(to_json(play._made.env.action_space.sample()))
    assert is_valid({"action": action}, described["action"])
    for ask in (b'{"type": "reset"}', to_json({"type": "step", "data": {"action": action}})):
        kind, data = answer(play, 0, ask)
        assert kind is Kind.OBSERVATION, data
        found = loads(data)
        assert is_valid(found["observation"], described["observation"])
        assert is_valid(
            found["observation"] | {"reward": found["reward"], "done": found["done"]}, described["observation"]
        )
        assert is_valid(loads(play.state()), described["state"])
    play.close()


def test_bounds_of_actions_are_told_where_they_are_finite():
    """One for all elements, or one for each."""
    space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))
    assert schemas(space, space)["action"]["properties"]["action"]["prefixItems"] == [
        {"type": "number", "minimum": -1.0, "maximum": 1.0},
        {"type": "number", "minimum": 0.0},
    ]
    alike = spaces.Box(-2, 2, (3,), np.float32)
    assert schemas(alike, alike)["action"]["properties"]["action"] == {
        "type": "array",
        "items": {"type": "number", "minimum": -2.0, "maximum": 2.0},
        "minItems": 3,
        "maxItems": 3,
    }


@pytest.mark.parametrize(
    ("space", "described"),
    [
        (spaces.Discrete(3, start=-1), [-1, 0, 1]),
        (spaces.Discrete(5000), {"low": 0, "high": 4999}),
        (spaces.MultiDiscrete([2, 3]), [[0, 1], [0, 1, 2]]),
        (spaces.MultiBinary(4), [0, 1]),
        (spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(1)]), [[0, 1], [0, 1]]),
        (spaces.Text(3), "Text(1, 3, charset="),
    ],
)
def test_legal_actions(space, described):
    """In the forms of the project that OpenEnv's gym_env came from."""
    found = describe_actions(space)
    assert found.startswith(described) if isinstance(described, str) else found == described


@pytest.mark.parametrize(
    ("space", "given", "taken"),
    [
        (spaces.Discrete(3), [2], 2),
        (spaces.Discrete(3), {"action": {"action": 1}, "metadata": {}}, 1),
        (spaces.Discrete(3), True, 1),
        (spaces.Box(-1, 1, (2, 2)), 0.5, [[0.5, 0.5], [0.5, 0.5]]),
        (spaces.Box(-1, 1, (1,)), 1, [1.0]),
        (spaces.Box(-1, 1, ()), [0.25], 0.25),
        (spaces.MultiDiscrete([2, 3]), [1, 2], [1, 2]),
        (spaces.Text(5), "abc", "abc"),
    ],
)
def test_lenient_forms(space, given, taken):
    """One number in any wrapping; nothing else is guessed."""
    action = to_action(space, given)
    assert space.contains(action)
    assert np.array_equal(action, taken)


@pytest.mark.parametrize(
    ("space", "given"),
    [
        (spaces.Box(-1, 1, (2,)), [0.1, 0.2, 0.3]),
        (spaces.Box(-1, 1, (2,)), [[0.1], [0.2, 0.3]]),
        (spaces.Box(-1, 1, (2,)), [2.0]),
        (spaces.Box(-1, 1, (2,)), [None, 1]),
        (spaces.Box(0, 255, (2,), np.uint8), [0, 256]),
        (spaces.MultiDiscrete([2, 3]), 1),
        (spaces.Dict(a=spaces.Discrete(2)), {"b": 1}),
        (spaces.Text(2), "abc"),
    ],
)
def test_refused_forms(space, given):
    """With the space described."""
    with pytest.raises(InvalidAction) as refused:
        to_action(space, given)
    assert refused.value.details["space"] == str(space)


@given(st.integers(0, 2**31), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_a_session_is_gymnasium(seed, steps):
    """For any seed, and beyond it: resets without one go on as the environment's own would."""
    play, env = Play(PlayOptions(env_id="Acrobot-v1")), gymnasium.make("Acrobot-v1")
    for data in (f'{{"seed": {seed}}}', "{}"):
        found = loads(answer(play, 0, f'{{"type": "reset", "data": {data}}}'.encode()).data)
        state, _ = env.reset(seed=seed if "seed" in data else None)
        for step in range(steps):
            assert np.array_equal(np.array(found["observation"]["state"], np.float32), state)
            found = loads(answer(play, 0, f'{{"type": "step", "data": {{"action": {step % 3}}}}}'.encode()).data)
            state, *_ = env.step(step % 3)
    play.close()
    env.close()


def test_the_servers_own_seed_and_limit():
    """GYM_SEED counts up with the resets that have none; GYM_MAX_STEPS truncates."""
    play = Play(PlayOptions(env_id="MountainCar-v0", seed=7, max_steps=2))
    seeds = []
    for data in ("{}", '{"seed": 100}', "{}"):
        answer(play, 0, f'{{"type": "reset", "data": {data}}}'.encode())
        seeds.append(loads(play.state())["seed"])
    assert seeds == [7, 100, 8]
    assert loads(play.state())["max_steps"] == 2
    ends = [loads(answer(play, 0, b'{"type": "step", "data": {"action": 0}}').data)["done"] for _ in range(2)]
    assert ends == [False, True]
    play.close()
