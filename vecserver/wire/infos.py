"""Infos on their way from the environments to Gymnasium's merged dict.

A worker sends the infos of its rows unmerged, ``[[row, info], …]`` in row order with empty ones left out, and the
client merges them with Gymnasium's own ``VectorEnv._add_info``: what comes out is then the same by construction. Runs
of rows that say the same numbers go as columns, see ``wire.columns``. A vectorised environment has merged its infos
already and sends ``[[MERGED_ROWS, infos]]``; where its rows are not all of the pool's, ``[SHARD_ROWS, {"first",
"end"}]`` goes before (``wire.shard_infos``). Statistics of episodes that ended follow as ``[EPISODE_ROWS, …]``, and
observations without a fixed size as ``[SIDE_ROWS, [bytes of a row, …]]`` for all rows of the worker. The ext of a
reply is the list of all workers' payloads; no payload at all is an empty ext.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from vecserver.wire.codec import FOREIGN, MAX_DEPTH, pack, portable, spend, spending, unpack
from vecserver.wire.columns import COLUMN_ROWS, columns_from, joined, merge_columns, rows_of, to_entries
from vecserver.wire.errors import EnvFault, MalformedMessage, Unportable
from vecserver.wire.shard_infos import ShardInfos

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "DROPPED_ROW",
    "EPISODE_KEYS",
    "EPISODE_ROWS",
    "MERGED_ROWS",
    "SHARD_ROWS",
    "SIDE_ROWS",
    "UNBOUNDED",
    "InfoBounds",
    "by_row",
    "encode_merged",
    "encode_rows",
    "join",
    "merge",
    "side_values",
    "split",
    "travelling",
]

DROPPED_ROW: Final = -1
"""The row of an entry that names values which cannot travel, instead of being a row's info."""
MERGED_ROWS: Final = -2
"""The row of an entry that holds merged infos of several rows."""
SIDE_ROWS: Final = -3
"""The row of an entry that holds the side values of a worker's rows' observations, as ``wire.side`` encodes them."""
EPISODE_ROWS: Final = -4
"""The row of an entry with the statistics of episodes that ended: lists ``rows``, ``r``, ``l``, ``t`` of one length."""

SHARD_ROWS: Final = -6
"""The row of an entry that says whose the merged infos behind it are: ``first`` and ``end`` row of a shard."""

EPISODE_KEYS: Final = ("episode", "_episode")
"""Where statistics stand in merged infos, and their mask; with statistics an environment's infos cannot have them."""

_INFO_DEPTH: Final = 2
"""An info's depth in its payload: in an entry, in the list of entries."""

_ALWAYS: Final = "final_obs"
"""What is no info: it is as large as the observations are, and trainers bootstrap from it."""

_MOST_NAMED: Final = 64
"""Values left out that are named one by one; how many there were is counted all the same."""

_LONGEST_NAME: Final = 200
_KEY_BYTES: Final = 16
_MOST_OF_A_ROW: Final = 16 << 20
"""Bytes of one row's infos, where a library merges them that would copy all of them several times."""

_LEAST_SHARE: Final = 64 << 10
"""Bytes that a row's infos may have, however many rows there are."""

RowInfos = list[tuple[int, dict[str, Any]]]


class InfoBounds(NamedTuple):
    """How large a worker's infos may be.

    Attributes:
        limit: Bytes of all its rows' in one batch.
        note: Called with the number of values that were left out, for their size or because they cannot travel.
    """

    limit: float
    note: Callable[[int], None]


UNBOUNDED: Final = InfoBounds(math.inf, lambda _: None)


class _Dropped:
    """Values that were left out.

    Attributes:
        names: Path → type of the first of them.
        count: How many there are.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.count = 0

    def note(self, path: str, value: Any) -> None:
        """Note one."""
        self.count += 1
        if len(self.names) < _MOST_NAMED:
            name = path[:_LONGEST_NAME].encode("utf-8", "replace").decode()  # lone surrogates cannot travel
            self.names[name] = f"{type(value).__module__}.{type(value).__qualname__}"


def encode_rows(
    infos: RowInfos,
    side: list[bytes] | None = None,
    *,
    episodes: dict[str, list[Any]] | None = None,
    bounds: InfoBounds = UNBOUNDED,
) -> bytes:
    """Encode one worker's infos; values that cannot travel are left out and named in an entry of their own.

    So are values that are too large: an environment's infos never keep a batch from being sent.

    Args:
        infos: Number of the row, and its info.
        side: The side values of all rows' observations; None where their space has no side leaves.
        episodes: Statistics of the episodes that ended, as ``EPISODE_ROWS`` has them.
        bounds: How large they may be.
    """
    ends: list[Any] = [] if episodes is None else [[EPISODE_ROWS, episodes]]
    if side is not None:
        ends.append([SIDE_ROWS, side])
    if not infos and not ends:
        return b""
    try:
        with spending(bounds.limit):
            return pack(to_entries(infos) + ends)
    except (Unportable, MemoryError):
        return _encode_some(infos, ends, bounds)


def _encode_some(infos: RowInfos, ends: list[Any], bounds: InfoBounds) -> bytes:
    """Encode what of the infos can travel; each row has a part of what all may come to."""
    dropped, kept = _Dropped(), []
    share = max(_LEAST_SHARE, bounds.limit / max(1, len(infos)))
    for row, info in infos:
        with spending(share):
            kept.append((row, _travelling(info, "", _INFO_DEPTH, dropped)))
    if dropped.count:
        bounds.note(dropped.count)
        ends = [*ends, [DROPPED_ROW, dropped.names]]
    return pack(to_entries(kept) + ends)


def encode_merged(
    infos: dict[str, Any],
    side: list[bytes] | None = None,
    *,
    dropped: dict[str, str] | None = None,
    episodes: dict[str, list[Any]] | None = None,
    shard: tuple[int, int] | None = None,
    bounds: InfoBounds = UNBOUNDED,
) -> bytes:
    """Encode infos that a vectorised environment merged itself, likewise.

    ``dropped`` is what was left out before, ``shard`` first and end row where these are not all of the pool's.
    """
    entries: RowInfos = [(MERGED_ROWS, infos)] if infos else []
    if infos and shard is not None:
        entries.insert(0, (SHARD_ROWS, {"first": shard[0], "end": shard[1]}))
    if dropped:
        entries.append((DROPPED_ROW, dropped))
        bounds.note(len(dropped))
    return encode_rows(entries, side, episodes=episodes, bounds=bounds)


def travelling(info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The part of a row's info that can travel, and path → type of the rest; the info itself where all of it can."""
    limit = _MOST_OF_A_ROW if FOREIGN.get() is None else math.inf
    try:
        with spending(limit):
            portable(info, depth=_INFO_DEPTH)
    except (Unportable, MemoryError):
        dropped = _Dropped()
        with spending(limit):
            return _travelling(info, "", _INFO_DEPTH, dropped), dropped.names
    return info, {}


def _travelling(info: dict[str, Any], path: str, depth: int, dropped: _Dropped) -> dict[str, Any]:
    """The part of an info that can travel; notes the rest as path → type.

    Subclasses of dict become dicts and those of arrays plain arrays, which is what merging makes of them.
    """
    kept: dict[str, Any] = {}
    try:
        spend(_KEY_BYTES * len(info), path)
    except Unportable:
        dropped.note(path.removesuffix(".") or "*", info)
        return kept
    for key, value in info.items():
        is_free = key == _ALWAYS and depth == _INFO_DEPTH
        try:
            with spending(math.inf) if is_free else nullcontext():
                portable(key, depth=depth + 1)
                if isinstance(value, dict) and depth < MAX_DEPTH:
                    kept[key] = _travelling(value, f"{path}{key}.", depth + 1, dropped)
                    continue
                kept[key] = np.asarray(value) if isinstance(value, np.ndarray) else value
                portable(kept[key], depth=depth + 1)
        except (Unportable, MemoryError):
            kept.pop(key, None)
            dropped.note(f"{path}{key!s:.{_LONGEST_NAME}}", value)
    return kept


def side_values(payload: bytes, rows: int) -> list[bytes] | None:
    """The side values in one worker's payload, as encoded rows; None where it holds none, or is no whole payload."""
    try:
        entries = unpack(payload) if payload else []
    except MalformedMessage:
        return None
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case [int(row), list(values)] if row == SIDE_ROWS and len(values) == rows:
                return values
    return None


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
) -> tuple[dict[str, Any], dict[str, str], list[bytes]]:
    """Merge the infos of a reply.

    Args:
        ext: The reply's ext.
        num_envs: Rows of the pool.
        add_info: Gymnasium's ``VectorEnv._add_info`` of the environment they are for.

    Returns:
        The merged infos, path → type of the values that could not travel, and the side values of the rows'
        observations: one a row, or none where their space has no side leaves.

    Raises:
        MalformedMessage: The ext holds no infos.
        EnvFault: Infos of different rows that Gymnasium cannot merge; names the row and Gymnasium's exception.
    """
    infos: dict[str, Any] = {}
    dropped: dict[str, str] = {}
    episodes: list[dict[str, Any]] = []
    side: list[bytes] = []
    shards = ShardInfos(num_envs)
    rows: Iterable[tuple[int, dict[str, Any]]]
    payloads = _payloads(ext)
    if payloads and all(map(_are_columns, payloads)):
        whole = joined([columns_from(entries[0][1], num_envs) for entries in payloads], num_envs)
        if whole is not None:
            return whole, dropped, side
    for row, info in _entries(payloads, num_envs):
        if row == DROPPED_ROW:
            dropped.update(info)
        elif row == SIDE_ROWS:
            side += info
        elif row == SHARD_ROWS:
            shards.begin(info)
        elif row == MERGED_ROWS:
            infos.update(shards.add(info))
        elif row == EPISODE_ROWS:
            episodes.append(info)
        else:
            rows = [(row, info)] if row != COLUMN_ROWS else merge_columns(infos, columns_from(info, num_envs), num_envs)
            for number, one in rows:
                try:
                    infos = add_info(infos, one, number)
                except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
                    raise _unmergeable(number, error) from None
    infos.update(shards.joined())
    if episodes:
        infos.update(zip(EPISODE_KEYS, _statistics(episodes, num_envs), strict=True))
    return infos, dropped, side


def _unmergeable(row: int, error: Exception) -> EnvFault:
    message = f"the infos of row {row} do not merge with those before: {error}"
    fault = {"row": row, "type": type(error).__name__, "message": message, "traceback": ""}
    return EnvFault(message, faults=[fault])


def _statistics(parts: list[dict[str, Any]], num_envs: int) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """All workers' statistics as arrays of one element a row, zero where no episode ended, and their mask."""
    over = np.zeros(num_envs, np.bool_)
    merged = {"r": np.zeros(num_envs), "l": np.zeros(num_envs, int), "t": np.zeros(num_envs)}
    try:
        for part in parts:
            for number, *values in zip(part["rows"], part["r"], part["l"], part["t"], strict=True):
                row = range(num_envs).index(number)  # refuses what is none of them, negative numbers too
                over[row] = True
                for array, value in zip(merged.values(), values, strict=True):
                    array[row] = value
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise MalformedMessage(f"the ext holds no statistics of {num_envs} rows: {error}") from None
    return merged, over


def by_row(
    ext: bytes | bytearray | memoryview, num_envs: int
) -> tuple[list[dict[str, Any]], dict[str, str], list[bytes]]:
    """The infos of a reply row by row, as the environments gave them.

    Those that a vectorised environment had merged are split again, see ``split``. Statistics of an episode are its
    row's ``episode``, a dict of numbers.

    Args:
        ext: The reply's ext.
        num_envs: Rows of the pool.

    Returns:
        One info a row, path → type of the values that could not travel, and the side values as ``merge`` gives them.

    Raises:
        MalformedMessage: The ext holds no infos.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    dropped: dict[str, str] = {}
    side: list[bytes] = []
    shards = ShardInfos(num_envs)
    for row, info in _entries(_payloads(ext), num_envs):
        if row == DROPPED_ROW:
            dropped.update(info)
        elif row == SIDE_ROWS:
            side += info
        elif row == EPISODE_ROWS:
            statistics, over = _statistics([info], num_envs)
            for ended in np.flatnonzero(over):
                rows[ended]["episode"] = {key: values[ended].item() for key, values in statistics.items()}
        elif row == SHARD_ROWS:
            shards.begin(info)
        elif row == MERGED_ROWS:
            _deal(shards.add(info), rows)
        elif row == COLUMN_ROWS:
            for number, one in rows_of(columns_from(info, num_envs)):
                rows[number].update(one)
        else:
            rows[row].update(info)
    _deal(shards.joined(), rows)
    return rows, dropped, side


def _deal(infos: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Give each row its part of merged infos."""
    try:
        parts = split(infos, len(rows))
    except (LookupError, TypeError, ValueError) as error:
        raise MalformedMessage(f"the merged infos are not those of {len(rows)} rows: {error}") from None
    for mine, part in zip(rows, parts, strict=True):
        mine.update(part)


def split(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Undo what ``VectorEnv._add_info`` does: one info a row.

    Types that merging has lost stay lost: a number comes back as a numpy scalar. A key without a mask is every row's.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    masks = {f"_{key}" for key in infos}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None and key in masks:
            continue  # it is a mask itself
        parts = split(value, num_envs) if isinstance(value, dict) else value
        for row, info in enumerate(rows):
            if mask is None or mask[row]:
                info[key] = parts[row]
    return rows


def _payloads(ext: bytes | bytearray | memoryview) -> list[list[Any]]:
    payloads = unpack(ext) if len(ext) else []
    if not isinstance(payloads, list) or not all(isinstance(payload, list) for payload in payloads):
        raise MalformedMessage("the ext holds no infos")
    return payloads


def _are_columns(entries: list[Any]) -> bool:
    """Whether a payload is one run of columns, as most are of environments that always say the same few numbers."""
    match entries:
        case [[int(row), _]]:
            return row == COLUMN_ROWS
    return False


def _entries(payloads: list[list[Any]], num_envs: int) -> Iterator[tuple[int, Any]]:
    for entry in chain.from_iterable(payloads):
        match entry:
            case [int(row), dict(info)] if type(row) is int and (
                MERGED_ROWS <= row < num_envs or row in (EPISODE_ROWS, SHARD_ROWS)
            ):
                yield row, info
            case [int(row), list(rows)] if row == SIDE_ROWS and all(type(data) is bytes for data in rows):
                yield row, rows
            case [int(row), list(parts)] if row == COLUMN_ROWS:
                yield row, parts
            case _:
                raise MalformedMessage(f"the ext holds an entry that is no info of one of {num_envs} rows")
