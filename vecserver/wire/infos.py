"""Infos on their way from the environments to Gymnasium's merged dict.

A worker sends the infos of its rows unmerged, ``[[row, info], …]`` in row order with empty ones left out, and the
client merges them with Gymnasium's own ``VectorEnv._add_info``: what comes out is then the same by construction. A
vectorised environment has merged its infos already and sends ``[[MERGED_ROWS, infos]]``. The ext of a reply is the list
of all workers' payloads; no payload at all is an empty ext.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from vecserver.wire.codec import MAX_DEPTH, pack, portable, unpack
from vecserver.wire.errors import MalformedMessage, Unportable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["DROPPED_ROW", "MERGED_ROWS", "encode_merged", "encode_rows", "join", "merge"]

DROPPED_ROW: Final = -1
"""The row of an entry that names values which cannot travel, instead of being a row's info."""
MERGED_ROWS: Final = -2
"""The row of an entry that holds merged infos of several rows."""

_INFO_DEPTH: Final = 2
"""An info's depth in its payload: in an entry, in the list of entries."""

RowInfos = list[tuple[int, dict[str, Any]]]


def encode_rows(infos: RowInfos) -> bytes:
    """Encode one worker's infos; values that cannot travel are left out and named in an entry of their own."""
    if not infos:
        return b""
    entries: list[Any] = [[row, info] for row, info in infos]
    try:
        return pack(entries)
    except Unportable:
        dropped: dict[str, str] = {}
        entries = [[row, _travelling(info, "", _INFO_DEPTH, dropped)] for row, info in infos]
        return pack([*entries, [DROPPED_ROW, dropped]] if dropped else entries)


def encode_merged(infos: dict[str, Any]) -> bytes:
    """Encode infos that a vectorised environment merged itself, likewise."""
    return encode_rows([(MERGED_ROWS, infos)]) if infos else b""


def _travelling(info: dict[str, Any], path: str, depth: int, dropped: dict[str, str]) -> dict[str, Any]:
    """The part of an info that can travel; notes the rest as path → type. Subclasses of dict become dicts."""
    kept: dict[str, Any] = {}
    for key, value in info.items():
        try:
            portable(key, depth=depth + 1)
            if isinstance(value, dict) and depth < MAX_DEPTH:
                kept[key] = _travelling(value, f"{path}{key}.", depth + 1, dropped)
                continue
            portable(value, depth=depth + 1)
        except Unportable:
            name = f"{path}{key}".encode("utf-8", "replace").decode()  # lone surrogates cannot travel
            dropped[name] = f"{type(value).__module__}.{type(value).__qualname__}"
        else:
            kept[key] = value
    return kept


def join(payloads: Sequence[bytes | memoryview]) -> bytes:
    """Make the ext of a reply from the workers' payloads, in the order of their shards; decodes nothing."""
    filled = [payload for payload in payloads if len(payload)]
    if not filled:
        return b""
    count = len(filled)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")  # a msgpack array's head
    return head + b"".join(filled)


def merge(
    ext: bytes | bytearray | memoryview,
    num_envs: int,
    add_info: Callable[[dict[str, Any], dict[str, Any], int], dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge the infos of a reply.

    Args:
        ext: The reply's ext.
        num_envs: Rows of the pool.
        add_info: Gymnasium's ``VectorEnv._add_info`` of the environment they are for.

    Returns:
        The merged infos, and path → type of the values that could not travel.

    Raises:
        MalformedMessage: The ext holds no infos, or infos of different rows that Gymnasium cannot merge.
    """
    infos: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    for row, info in _entries(ext, num_envs):
        if row == DROPPED_ROW:
            dropped.update(info)
        elif row == MERGED_ROWS:
            infos.update(info)
        else:
            try:
                infos = add_info(infos, info, row)
            except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
                raise MalformedMessage(f"the infos of row {row} do not merge with those before: {error}") from None
    return infos, dropped


def _entries(ext: bytes | bytearray | memoryview, num_envs: int) -> Iterator[tuple[int, dict[str, Any]]]:
    payloads = unpack(ext) if len(ext) else []
    if not isinstance(payloads, list) or not all(isinstance(payload, list) for payload in payloads):
        raise MalformedMessage("the ext holds no infos")
    for entry in chain.from_iterable(payloads):
        match entry:
            case [int(row), dict(info)] if type(row) is int and MERGED_ROWS <= row < num_envs:
                yield row, info
            case _:
                raise MalformedMessage(f"the ext holds an entry that is no info of one of {num_envs} rows")
