"""Forms as data: the fields of an action, from its JSON schema, and of an environment's parameters. No widgets here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from vecserver.pools.spec import INFOS
from vecserver.wire.errors import InvalidAction, InvalidSpec

__all__ = [
    "Choice",
    "Field",
    "Group",
    "Json",
    "Number",
    "Parameter",
    "Text",
    "action_field",
    "choice_keys",
    "infos_of",
    "kwargs_of",
    "parameters_of",
    "read_action",
    "starting_value",
    "wrappers_of",
]

_MOST_BUTTONS: Final = 32
"""Actions of a Discrete space that are buttons; beyond them a number is typed."""

_MOST_NUMBERS: Final = 64
"""Numbers of an action that are fields of their own; beyond them the action is typed as JSON."""

_Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few whole numbers."""

    label: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Number:
    """A number; an end that is None has no bound."""

    label: str
    low: float | None
    high: float | None
    whole: bool

    @property
    def is_bounded(self) -> bool:
        """Whether both ends are known, so that it can be slid along."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True, slots=True)
class Text:
    """A text."""

    label: str
    shortest: int


@dataclass(frozen=True, slots=True)
class Json:
    """Anything else: typed as JSON, with what it may begin with."""

    label: str
    start: Any


@dataclass(frozen=True, slots=True)
class Group:
    """Fields one under the other; their values are a list, or an object where they have names."""

    label: str
    names: tuple[str, ...] | None
    fields: tuple[Field, ...]


Field = Choice | Number | Text | Json | Group


def action_field(schema: _Schema) -> Field:
    """The form of an action.

    Args:
        schema: The action's JSON schema, as an OpenEnv session tells it.

    Returns:
        A field; of an action with very many numbers one for JSON, which begins with an action that fits.
    """
    found = _field(schema, "action")
    return found if _count(found) <= _MOST_NUMBERS else Json("action", starting_value(found))


def _field(schema: _Schema, label: str) -> Field:
    match schema.get("type"):
        case "integer" | "number":
            return _number(schema, label)
        case "string":
            return Text(label, int(schema.get("minLength", 0)))
        case "array":
            items = schema.get("prefixItems") or [schema.get("items", {})] * int(schema.get("maxItems", 0))
            return Group(label, None, tuple(_field(item, f"{label}[{i}]") for i, item in enumerate(items)))
        case "object" if "properties" in schema:
            parts: dict[str, _Schema] = schema["properties"]
            return Group(label, tuple(parts), tuple(_field(part, name) for name, part in parts.items()))
        case _:
            return Json(label, None)


def _number(schema: _Schema, label: str) -> Field:
    low, high = schema.get("minimum"), schema.get("maximum")
    whole = schema["type"] == "integer"
    if whole and low is not None and high is not None and high - low < _MOST_BUTTONS:
        return Choice(label, int(low), int(high))
    return Number(label, low, high, whole)


def _count(field: Field) -> int:
    return sum(map(_count, field.fields)) if isinstance(field, Group) else 1


def starting_value(field: Field) -> Any:
    """A value that the field may begin with: inside its bounds, as near to nothing as they allow."""
    match field:
        case Choice():
            return field.first
        case Number():
            low = -math.inf if field.low is None else field.low
            high = math.inf if field.high is None else field.high
            near = min(max(0.0, low), high)
            return int(near) if field.whole else near
        case Text():
            return " " * field.shortest
        case Group(names=None):
            return [starting_value(part) for part in field.fields]
        case Group():
            return dict(zip(field.names or (), map(starting_value, field.fields), strict=True))
        case Json():
            return field.start


def choice_keys(field: Choice) -> dict[str, int]:
    """Which key stands for which action: digits for the first ten, arrows for the first four in reading order."""
    values = range(field.first, field.last + 1)
    keys = {str(i): value for i, value in enumerate(values[:10])}
    if len(values) == 2:
        return keys | {"ArrowLeft": values[0], "ArrowRight": values[1]}
    arrows = ("ArrowLeft", "ArrowDown", "ArrowRight", "ArrowUp")
    return keys | dict(zip(arrows, values, strict=False))


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that an environment may be made with.

    Attributes:
        kind: ``switch``, ``whole``, ``number``, ``text``, ``json``: how it is asked for.
        default: What it is if nobody says; its text where it is no JSON value.
        is_json: Whether the default is itself.
    """

    name: str
    kind: str
    default: Any
    required: bool
    is_json: bool


def parameters_of(about: dict[str, Any]) -> list[Parameter]:
    """The parameters in an environment's description (``Ask.ABOUT``)."""
    return [
        Parameter(each["name"], _kind(each["default"]) if each["is_json"] else "json", *_rest(each))
        for each in about["parameters"]
    ]


def _rest(each: dict[str, Any]) -> tuple[Any, bool, bool]:
    return each["default"], each["required"], each["is_json"]


def _kind(default: Any) -> str:
    kinds = {bool: "switch", int: "whole", float: "number", str: "text"}
    return kinds.get(type(default), "json")


def kwargs_of(parameters: list[Parameter], given: dict[str, Any], more: str = "") -> dict[str, Any]:
    """What to make an environment with: the parameters that differ from their defaults, and what was typed besides.

    Args:
        parameters: The environment's.
        given: Name → value of its field; JSON text for a parameter of that kind, nothing for none.
        more: A JSON object with parameters that have no field.

    Raises:
        InvalidSpec: A text is no JSON; names the parameter.
    """
    chosen: dict[str, Any] = {}
    for each in parameters:
        value = given.get(each.name)
        if each.kind == "json":
            if not str(value or "").strip():
                continue
            value = _read(str(value), each.name)
        elif value is None:  # a number field that was emptied
            continue
        elif each.kind == "whole" and float(value).is_integer():
            value = int(value)
        if each.required or not each.is_json or value != each.default:
            chosen[each.name] = value
    others = _read(more, "the other parameters") if more.strip() else {}
    if not isinstance(others, dict):
        raise InvalidSpec('the other parameters are a JSON object, as in {"name": 1}', field="env_kwargs")
    return chosen | others


def wrappers_of(text: str) -> list[Any]:
    """The wrappers that were typed; none where nothing was.

    Raises:
        InvalidSpec: The text is no JSON list.
    """
    wrappers = _read(text, "wrappers") if text.strip() else []
    if not isinstance(wrappers, list):
        raise InvalidSpec('wrappers is a JSON list, as in ["TimeAwareObservation"]', field="wrappers")
    return wrappers


def infos_of(text: str) -> str | list[str]:
    """Which infos are sent: one of the words for it, or keys with commas between them."""
    return text if text in INFOS else [key.strip() for key in text.split(",") if key.strip()]


def _read(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidSpec(f"{name} is no JSON: {error}", field=name) from None


def read_action(text: str) -> Any:
    """The action that a text says.

    Raises:
        InvalidAction: It is no JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidAction(f"the action is no JSON: {error}") from None
