"""Durable pools as an operator writes them down: on the command line, and in a TOML file."""

from __future__ import annotations

import difflib
import json
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

import msgspec

from vecserver.pools.spec import PoolSpec, check_pool_name
from vecserver.pools.store import DurablePool
from vecserver.wire.errors import InvalidSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["pool_of_text", "pools_of_file"]

_SHORT: Final = {"env": "env_id", "kwargs": "env_kwargs"}
_OPTIONS: Final = tuple(field.name for field in fields(PoolSpec))
_EXAMPLE: Final = "name=train,env=CartPole-v1,num_envs=64"


def pool_of_text(text: str) -> DurablePool:
    """A pool as ``--pool`` takes it: ``name=train,env=CartPole-v1,num_envs=64``, or a JSON object.

    Values are JSON where they are some, as in ``kwargs={"gravity": 9.8}``, and text otherwise; a comma within brackets
    or quotes separates nothing.

    Raises:
        InvalidSpec: It is none; says what is wrong.
    """
    if text.lstrip().startswith("{"):
        options = _json_object(text)
    else:
        options = {}
        for part in _split(text):
            key, given, value = part.partition("=")
            if not given:
                raise InvalidSpec(f"{part!r} in {text!r} is no option=value, as in {_EXAMPLE}", field="pool")
            options[key.strip()] = _value(value.strip())
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise InvalidSpec(f"the pool {text!r} has no name, as in {_EXAMPLE}", field="name")
    return _pool(name, options)


def pools_of_file(path: Path) -> list[DurablePool]:
    """The pools of a TOML file: a table ``[pools.NAME]`` each, with the options of a pool.

    Raises:
        InvalidSpec: It cannot be read, or one of them is none; says which and why.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"{path} cannot be read: {error}", field="pools") from None
    tables = document.pop("pools", None)
    if document or not isinstance(tables, dict):
        raise InvalidSpec(f"{path} holds tables [pools.NAME] and nothing else", field="pools")
    for name, options in tables.items():
        if not isinstance(options, dict):
            raise InvalidSpec(f"pools.{name} in {path} is no table", field="pools")
    return [_pool(name, dict(options)) for name, options in tables.items()]


def _pool(name: str, given: dict[str, Any]) -> DurablePool:
    check_pool_name(name)
    options = {_SHORT.get(key, key): value for key, value in given.items()}
    for key in options:
        if key not in _OPTIONS:
            close = difflib.get_close_matches(key, _OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are name, {', '.join(_OPTIONS)}"
            raise InvalidSpec(f"pool {name}: there is no option {key!r}: {hint}", field=key)
    try:
        spec = msgspec.convert(options, PoolSpec)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise InvalidSpec(f"pool {name}: {error}", field="pool") from None
    return DurablePool(name, spec)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"the pool {text!r} is no JSON: {error}", field="pool") from None
    return dict(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _split(text: str) -> Iterator[str]:
    """The parts between commas that are in no bracket and in no quotes."""
    depth, quoted, escaped, begin = 0, False, False, 0
    for i, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            yield text[begin:i]
            begin = i + 1
    yield text[begin:]
