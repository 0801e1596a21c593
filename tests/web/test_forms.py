"""Forms as data."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from gymnasium import spaces

from vecserver.control.web.forms import (
    Choice,
    Group,
    Json,
    Number,
    Parameter,
    Text,
    action_field,
    choice_keys,
    infos_of,
    kwargs_of,
    parameters_of,
    read_action,
    starting_value,
    wrappers_of,
)
from vecserver.pools.sessions.actions import to_action
from vecserver.pools.sessions.schemas import schemas
from vecserver.wire.errors import InvalidAction, InvalidSpec
from vecserver.wire.json_values import to_json

ANY = spaces.Discrete(2)


def field_of(space):
    """The form of a space's actions, by way of the schema that a session tells."""
    schema = orjson.loads(to_json(schemas(space, ANY)))
    return action_field(schema["action"]["properties"]["action"])


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-2),
        spaces.Discrete(1000),
        spaces.Box(-2.0, 2.0, (3,)),
        spaces.Box(-np.inf, np.inf, (2, 2)),
        spaces.Box(np.array([1.0, -np.inf], "f4"), np.array([np.inf, -3.0], "f4")),
        spaces.Box(0, 255, (2,), np.uint8),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Text(5, min_length=2),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.Box(0, 1, ())})}),
        spaces.Box(-1, 1, (100,)),
    ],
    ids=str,
)
def test_what_a_form_begins_with_is_an_action(space):
    """Of every space that has fields, bounds without end among them."""
    if isinstance(space, spaces.Text):
        assert field_of(space) == Text("action", 2)
        return
    value = json.loads(json.dumps(starting_value(field_of(space)), allow_nan=False))
    assert space.contains(to_action(space, value))


def test_fields_are_of_the_spaces_kind():
    """Few whole numbers are a choice, others a number with the bounds that there are, parts a group."""
    assert field_of(spaces.Discrete(3)) == Choice("action", 0, 2)
    assert field_of(spaces.Discrete(1000)) == Number("action", 0, 999, whole=True)
    box = field_of(spaces.Box(np.array([0.0, -np.inf], "f4"), np.array([np.inf, 1.0], "f4")))
    assert isinstance(box, Group)
    assert box.fields[1] == Number("action[1]", None, 1.0, whole=False)
    assert not box.fields[0].is_bounded
    both = field_of(spaces.Dict({"x": spaces.MultiBinary(2), "y": spaces.Discrete(2)}))
    assert both.names == ("x", "y")
    assert both.fields[0].fields[0] == Choice("x[0]", 0, 1)


def test_actions_with_very_many_numbers_are_typed():
    """A picture has no field a pixel."""
    field = field_of(spaces.Box(-1, 1, (9, 9)))
    assert isinstance(field, Json)
    assert np.shape(field.start) == (9, 9)
    assert field_of(spaces.Sequence(spaces.Discrete(2))) == Json("action", None)


def test_keys_of_choices():
    """Digits for all of them, left and right for two, four arrows for more."""
    assert choice_keys(Choice("a", 0, 1)) == {"0": 0, "1": 1, "ArrowLeft": 0, "ArrowRight": 1}
    keys = choice_keys(Choice("a", -1, 2))
    assert (keys["0"], keys["ArrowLeft"], keys["ArrowUp"]) == (-1, -1, 2)
    assert len(choice_keys(Choice("a", 0, 20))) == 14


ABOUT = {
    "parameters": [
        {"name": "flag", "default": False, "required": False, "is_json": True},
        {"name": "size", "default": 4, "required": False, "is_json": True},
        {"name": "wind", "default": 1.5, "required": False, "is_json": True},
        {"name": "name", "default": "a", "required": False, "is_json": True},
        {"name": "map", "default": None, "required": False, "is_json": True},
        {"name": "seeded", "default": None, "required": True, "is_json": False},
    ]
}


def test_parameters_are_asked_for_by_their_defaults_kind():
    """A switch, whole and other numbers, text, and JSON for the rest."""
    kinds = [each.kind for each in parameters_of(ABOUT)]
    assert kinds == ["switch", "whole", "number", "text", "json", "json"]


def test_only_what_differs_is_handed_on():
    """What is left as it is stays the environment's own matter."""
    parameters = parameters_of(ABOUT)
    same = {"flag": False, "size": 4.0, "wind": 1.5, "name": "a", "map": "", "seeded": ""}
    assert kwargs_of(parameters, same) == {}
    changed = {"flag": True, "size": 5.0, "wind": None, "name": "b", "map": '["SF"]', "seeded": "3"}
    expected = {"flag": True, "size": 5, "name": "b", "map": ["SF"], "seeded": 3}
    assert kwargs_of(parameters, changed) == expected
    assert type(kwargs_of(parameters, changed)["size"]) is int
    assert kwargs_of(parameters, same, '{"more": [1]}') == {"more": [1]}


def test_text_that_is_no_json_is_named():
    """With its parameter."""
    parameter = Parameter("map", "json", None, required=False, is_json=True)
    with pytest.raises(InvalidSpec, match="map is no JSON"):
        kwargs_of([parameter], {"map": "SF"})
    with pytest.raises(InvalidSpec, match="JSON object"):
        kwargs_of([], {}, "[1]")
    with pytest.raises(InvalidSpec, match="wrappers is no JSON"):
        wrappers_of("[TimeLimit")
    with pytest.raises(InvalidSpec, match="JSON list"):
        wrappers_of('"TimeLimit"')
    with pytest.raises(InvalidAction, match="no JSON"):
        read_action("[1")
    assert read_action("[1]") == [1]


def test_wrappers_and_infos_are_typed():
    """As a JSON list, and as a word or keys with commas between."""
    assert wrappers_of(" ") == []
    assert wrappers_of('["ClipReward", {"id": "TimeLimit"}]') == ["ClipReward", {"id": "TimeLimit"}]
    assert [infos_of(text) for text in ("none", "lives", " lives, prob ,")] == ["none", ["lives"], ["lives", "prob"]]
