"""JSON values as actions of spaces without a fixed size, in the form in which the HTTP answers show observations.

Arrays need no help: numpy reads lists. But a Sequence is a tuple or one array, a Graph three arrays, and a OneOf a
pair, and their spaces hold nothing else.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np
from gymnasium import spaces

from vecserver.wire.errors import InvalidAction
from vecserver.wire.layout import assemble, has_slot, leaf_spaces, leaf_values

__all__ = ["batch_from_json", "from_json"]


def batch_from_json(space: spaces.Space[Any], actions: Any) -> Any:
    """Turn what JSON has of a batch into what the space's side leaves hold; arrays are left as they are.

    Args:
        space: The single action space.
        actions: A batch in its structure: lists of rows, in objects and lists where the space is a Dict or Tuple.

    Raises:
        InvalidAction: A value has not the form that its space needs; names its row.
    """
    leaves = [leaf for _, leaf in leaf_spaces(space)]
    if all(map(has_slot, leaves)):
        return _numbers(actions)
    try:
        parts = list(leaf_values(space, actions))
    except (LookupError, TypeError, ValueError):
        return actions  # of another structure: whoever reads the batch says so
    return assemble(space, (_rows(leaf, part) for leaf, part in zip(leaves, parts, strict=True)))


def _rows(leaf: spaces.Space[Any], part: Any) -> Any:
    if has_slot(leaf):
        return _numbers(part)
    if not isinstance(part, list):
        return part
    values = []
    for row, value in enumerate(part):
        try:
            values.append(from_json(leaf, value))
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InvalidAction(
                f"row {row}: {value!r:.200} is not the JSON of an action of {leaf!s:.200}: {error}; nothing was "
                "stepped",
                row=row,
            ) from None
    return values


def _refuse_text(value: Any) -> None:
    """Refuse text where numbers belong: an array of it has as much room for each as for the longest.

    Raises:
        TypeError: There is some.
    """
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            left += each.values()
        elif isinstance(each, str):
            raise TypeError(f"{each!r:.40} is text, where numbers belong")


def _numbers(actions: Any) -> Any:
    try:
        _refuse_text(actions)
    except TypeError as error:
        raise InvalidAction(f"{error}; nothing was stepped") from None
    return actions


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    _refuse_text(value)
    return np.asarray(value)


@singledispatch
def from_json(space: spaces.Space[Any], value: Any) -> Any:
    """Turn what JSON has of one action into what its space holds, if it holds it at all.

    Args:
        space: The space, which may still say no to what comes out.
        value: Numbers, text, lists and objects.

    Raises:
        LookupError, TypeError, ValueError, OverflowError: The value has not the form that the space needs.
    """
    del space  # a Text, or a custom space: what JSON has is all there is
    return value


@from_json.register(spaces.Box)
@from_json.register(spaces.MultiDiscrete)
@from_json.register(spaces.MultiBinary)
def _array(space: spaces.Space[Any], value: Any) -> Any:
    array = _as_array(value)
    if array.shape == (0,):  # an empty list says nothing of what it might hold
        return np.zeros((0, *(space.shape or ())[1:]), space.dtype)
    return _cast(array, np.dtype(space.dtype))


def _cast(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    numbers = array.dtype.kind in "biu" and dtype.kind in "iu"
    cast = array.astype(dtype, casting="unsafe" if numbers else "same_kind")
    if numbers and not np.array_equal(cast, array):
        raise ValueError(f"a number beyond {dtype}")
    return cast


@from_json.register
def _discrete(space: spaces.Discrete, value: Any) -> Any:
    return _array(space, value)[()]


@from_json.register
def _dict(space: spaces.Dict, value: Any) -> Any:
    return {key: from_json(child, value[key]) for key, child in space.spaces.items()}


@from_json.register(spaces.Tuple)
def _tuple(space: spaces.Tuple[Any], value: Any) -> Any:
    return tuple(from_json(child, part) for child, part in zip(space.spaces, value, strict=True))


@from_json.register(spaces.Sequence)
def _sequence(space: spaces.Sequence, value: Any) -> Any:
    if space.stack:
        return from_json(space.stacked_feature_space, value)
    return tuple(from_json(space.feature_space, item) for item in value)


@from_json.register(spaces.OneOf)
def _one_of(space: spaces.OneOf[Any], value: Any) -> Any:
    number, part = value
    if type(number) is not int or not 0 <= number < len(space.spaces):
        raise ValueError(f"{number!r:.40} is the number of none of its {len(space.spaces)} spaces")
    return np.int64(number), from_json(space.spaces[number], part)


def _dtype_of_edges(space: spaces.Graph) -> np.dtype[Any]:
    if space.edge_space is None:
        raise TypeError("the edges of this graph have no values")
    return np.dtype(space.edge_space.dtype)


@from_json.register
def _graph(space: spaces.Graph, value: Any) -> Any:
    if not isinstance(value, dict):
        raise TypeError("an object with nodes, edges and edge_links is needed")
    nodes, edges, links = (value.get(name) for name in ("nodes", "edges", "edge_links"))
    return spaces.GraphInstance(
        _cast(_as_array(nodes), np.dtype(space.node_space.dtype)),
        None if edges is None else _cast(_as_array(edges), _dtype_of_edges(space)),
        None if links is None else _cast(_as_array(links), np.dtype(np.int32)),
    )
