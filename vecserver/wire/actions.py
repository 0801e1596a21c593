"""Action batches: from what a caller passes to the bytes of an action block, and the checks on the way.

Gymnasium hands each environment the action in the dtype its caller used, so a float64 batch for a float32 Box gives
other numbers than its rounded copy. The block therefore carries each leaf in the caller's dtype; it names the dtypes
only where they differ from the space's.

The parts of a batch are one a leaf: an array for each leaf that has a place in the block, in order, and then a tuple of
one value a row for each side leaf. Side values travel in the ext, ``[dtypes or nil, [bytes of a row, …]]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from gymnasium import spaces

from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import InvalidAction, MalformedMessage, Unportable, UnsupportedSpace
from vecserver.wire.frames import MAX_EXT
from vecserver.wire.layout import has_slot, leaf_spaces, leaf_values
from vecserver.wire.side import SideLeaves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vecserver.wire.frames import Buffer

__all__ = ["ActionFormat"]

Array = np.ndarray[Any, Any]
_ALIGNMENT: Final = 8
_DTYPES: Final = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
"""The dtypes an action leaf may have; a leaf's code in the arena is its position here."""
_CODES: Final = {np.dtype(name): code for code, name in enumerate(_DTYPES)}
_BY_NAME: Final = {dtype.str: dtype for dtype in _CODES}
_RANKS: Final = {"b": 0, "i": 1, "u": 1, "f": 2}
"""An action may have any dtype of its space's rank or below: integers for floats, never floats for integers."""
_NAMES: Final = msgspec.msgpack.Decoder(list[str])


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One array of the batched action."""

    name: str
    space: spaces.Space[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int  # elements
    offset: int  # in the arena's action area, where every element has room for the widest dtype
    looks_right: Callable[[Array], bool]  # a cheap test: what passes it is right, what does not is looked at closely


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class ActionFormat:
    """How the actions of one pool are checked, encoded and stored.

    Args:
        space: The single action space of a row.
        num_envs: Rows.

    Raises:
        UnsupportedSpace: A part of the space has a dtype that no action may have.
    """

    def __init__(self, space: spaces.Space[Any], num_envs: int) -> None:
        self.space = space
        self.num_envs = num_envs
        leaves, offset = [], 0
        for path, leaf in leaf_spaces(space):
            if not has_slot(leaf):
                continue
            dtype, shape = np.dtype(leaf.dtype), (num_envs, *(leaf.shape or ()))
            if dtype not in _CODES:
                raise UnsupportedSpace(f"{leaf} has dtype {dtype.str}; actions have one of {', '.join(_BY_NAME)}")
            leaves.append(_Leaf(path, leaf, dtype, shape, prod(shape), offset, _cheap_test(leaf, prod(shape))))
            offset += _round_up(8 * prod(shape))
        self._leaves = tuple(leaves)
        self.side = SideLeaves(space)
        self.has_side = bool(self.side)
        """Whether batches have side values: asked on every step, and so asked of the leaves once."""
        self.area_size = offset
        """Bytes of the arena's action area: an upper bound of a block's length in any dtypes."""
        self.leaf_count = len(leaves)
        self._usual = tuple(leaf.dtype for leaf in leaves)
        # of most pools a batch is one array: it takes a short way through every function that a step calls
        self._only = leaves[0] if len(leaves) == 1 and not self.has_side else None
        self._usual_code = _CODES[leaves[0].dtype] if self._only else 0
        self._only_size = _round_up(leaves[0].dtype.itemsize * leaves[0].count) if self._only else 0

    def coerce(self, actions: Any) -> list[Any]:
        """Turn a batch of actions into its parts: C-ordered arrays in the caller's dtypes, and tuples of side values.

        Args:
            actions: A batch as ``gymnasium.vector.VectorEnv.step`` takes it: an array or sequence of ``num_envs`` rows,
                or dicts and tuples of these where the space is one.

        Raises:
            InvalidAction: The structure, length, shape or dtype does not fit the space.
        """
        only = self._only
        if (
            only is not None
            and type(actions) is np.ndarray
            and actions.dtype == only.dtype
            and actions.shape == only.shape
            and actions.flags.c_contiguous
        ):
            return [actions]
        try:
            parts = list(leaf_values(self.space, actions))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InvalidAction(
                f"the action batch does not have the structure of {self.space}: {error!r}; nothing was stepped"
            ) from None
        side: list[Any] = []
        if self.has_side:
            parts, side = self.side.split(parts)
            side = [self._coerce_side(path, part) for (path, _), part in zip(self.side.leaves, side, strict=True)]
        return [self._coerce_leaf(leaf, part) for leaf, part in zip(self._leaves, parts, strict=True)] + side

    def _coerce_leaf(self, leaf: _Leaf, part: Any) -> Array:
        where = f"the action batch{f' at {leaf.name}' if leaf.name else ''}"
        try:
            array = np.asarray(part, order="C")
        except (TypeError, ValueError, RuntimeError) as error:  # ragged sequences; a tensor of an accelerator
            raise InvalidAction(f"{where} is no array: {error}; nothing was stepped") from None
        if array.shape != leaf.shape:
            if array.shape[:1] != leaf.shape[:1]:
                got = array.shape[0] if array.ndim else "no"
                raise InvalidAction(f"{where} has {got} rows, the pool has {self.num_envs}; nothing was stepped")
            raise InvalidAction(f"{where} has shape {array.shape} instead of {leaf.shape}; nothing was stepped")
        if not _fits(array.dtype, leaf.dtype):
            raise InvalidAction(
                f"{where} has dtype {array.dtype}, {leaf.space} takes {leaf.dtype}; nothing was stepped"
            )
        return array

    def _coerce_side(self, path: str, part: Any) -> tuple[Any, ...]:
        where = f"the action batch{f' at {path}' if path else ''}"
        try:
            values = tuple(part)
        except TypeError as error:
            raise InvalidAction(f"{where} has no rows: {error}; nothing was stepped") from None
        if len(values) != self.num_envs:
            raise InvalidAction(f"{where} has {len(values)} rows, the pool has {self.num_envs}; nothing was stepped")
        return values

    def check(self, parts: Sequence[Any], idle: Callable[[], Array] | None = None) -> None:
        """Refuse values that no environment could take.

        Integers outside their space and NaN are refused, and side values that their space does not contain. Finite
        numbers beyond a Box's bounds pass, as they do in Gymnasium: Gaussian policies emit them and environments clip
        them.

        Args:
            parts: As ``coerce`` or ``decode`` gave them.
            idle: Which rows [N] take no action this time; asked when there is a value to refuse.

        Raises:
            InvalidAction: Names the first row, its value and the space.
        """
        if self.has_side:
            self._check_side(parts[self.leaf_count :], idle)
        for leaf, array in zip(self._leaves, parts, strict=False):
            if leaf.looks_right(array):
                continue
            bad = _outside(leaf.space, array).reshape(self.num_envs, -1).any(axis=1)
            if idle is not None:
                bad &= ~idle()
            if bad.any():
                row = int(bad.argmax())
                raise InvalidAction(
                    f"row {row}: action {array[row].tolist()!r:.200} is outside {leaf.space}; nothing was stepped, the "
                    "batch can be sent again",
                    row=row,
                )

    def _check_side(self, parts: Sequence[tuple[Any, ...]], idle: Callable[[], Array] | None) -> None:
        for (path, leaf), values in zip(self.side.leaves, parts, strict=True):
            for row, value in enumerate(values):
                if not _contains(leaf, value) and (idle is None or not idle()[row]):
                    raise InvalidAction(
                        f"row {row}: action{f' at {path}' if path else ''} {value!r:.200} is outside {leaf!s:.200}; "
                        "nothing was stepped, the batch can be sent again",
                        row=row,
                    )

    def encode(self, parts: Sequence[Any]) -> tuple[bytes, bytes]:
        """Encode the parts of a batch as the ext and body of a STEP request.

        Returns:
            The ext, empty where no leaf travels aside and every leaf has its space's dtype, and the body: the arrays
            one after the other, each padded to 8 bytes.

        Raises:
            InvalidAction: A side value cannot travel; names its row.
        """
        if self._only is not None and parts[0].dtype == self._only.dtype:
            return b"", parts[0].tobytes().ljust(self._only_size, b"\0")
        arrays = parts[: self.leaf_count] if self.has_side else parts
        dtypes = tuple(array.dtype for array in arrays)
        names = None if dtypes == self._usual else [dtype.str for dtype in dtypes]
        if self.has_side:
            ext = self._encode_side(names, parts)
        else:
            ext = b"" if names is None else msgspec.msgpack.encode(names)
        return ext, b"".join(array.tobytes().ljust(_round_up(array.nbytes), b"\0") for array in arrays)

    def _encode_side(self, names: list[str] | None, parts: Sequence[Any]) -> bytes:
        ext = pack([names, self.side_rows(parts, 0, self.num_envs)])
        if len(ext) > MAX_EXT:
            raise InvalidAction(f"the action batch has {len(ext)} bytes beside its arrays; at most {MAX_EXT} are taken")
        return ext

    def side_rows(self, parts: Sequence[Any], first: int, end: int) -> list[bytes]:
        """Encode the side values of some rows of a batch, each row for itself.

        Raises:
            InvalidAction: A value cannot travel; names its row.
        """
        rows = []
        for row in range(first, end):
            values = [part[row] for part in parts[self.leaf_count :]]
            try:
                rows.append(self.side.pack_row(values, "the action"))
            except Unportable as error:
                raise InvalidAction(f"row {row}: {error}; nothing was stepped", row=row) from None
        return rows

    def decode(self, ext: Buffer, body: Buffer) -> list[Any]:
        """The parts of a STEP request's batch: views of its body, without a copy, and side values.

        Raises:
            InvalidAction: A dtype that does not fit the space.
            MalformedMessage: The ext names no dtypes or holds no side values, or the body has another length than the
                dtypes say.
        """
        if self.has_side:
            dtypes, side = self._decode_side(ext)
        else:
            dtypes, side = self._decode_dtypes(ext) if len(ext) else self._usual, []
        arrays: list[Any] = []
        offset = 0
        for leaf, dtype in zip(self._leaves, dtypes, strict=True):
            end = offset + _round_up(dtype.itemsize * leaf.count)
            if end > len(body):
                break
            arrays.append(np.ndarray(leaf.shape, dtype, body, offset))
            offset = end
        if len(arrays) != self.leaf_count or offset != len(body):
            raise MalformedMessage(
                f"the actions of {self.num_envs} rows of {self.space} do not have {len(body)} bytes; "
                "nothing was stepped"
            )
        return arrays + side

    def _decode_side(self, ext: Buffer) -> tuple[tuple[np.dtype[Any], ...], list[tuple[Any, ...]]]:
        match unpack(ext):
            case [names, list(rows)] if all(type(row) is bytes for row in rows):
                side = self.side.unpack_rows(rows, self.num_envs)
            case _:
                raise MalformedMessage("the ext of a STEP holds no values that travel aside")
        return (self._usual if names is None else self._named_dtypes(names)), side

    def _decode_dtypes(self, ext: Buffer) -> tuple[np.dtype[Any], ...]:
        try:
            names = _NAMES.decode(ext)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedMessage(f"the ext of a STEP names no dtypes: {error}") from None
        return self._named_dtypes(names)

    def _named_dtypes(self, names: Any) -> tuple[np.dtype[Any], ...]:
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise MalformedMessage("the ext of a STEP names no dtypes")
        if len(names) != self.leaf_count:
            raise MalformedMessage(f"the ext of a STEP names {len(names)} dtypes for {self.leaf_count} leaves")
        for leaf, name in zip(self._leaves, names, strict=True):
            if name not in _BY_NAME or not _fits(_BY_NAME[name], leaf.dtype):
                raise InvalidAction(f"an action batch of dtype {name!r:.40}, {leaf.space} takes {leaf.dtype}")
        return tuple(_BY_NAME[name] for name in names)

    def is_usual(self, ext: Buffer, body: Buffer) -> bool:
        """Whether a batch is one array of its space's dtype with nothing to refuse: ``store_usual`` takes it as it is.

        Decides nothing by itself: what is not is decoded and checked.
        """
        only = self._only
        if only is None or len(ext) or len(body) != self._only_size:
            return False
        return only.looks_right(np.ndarray(only.shape, only.dtype, body))

    def store_usual(self, body: Buffer, area: memoryview, codes: memoryview) -> None:
        """As ``store``, for the body of a usual batch."""
        area[: len(body)] = body
        codes[0] = self._usual_code

    def store(self, parts: Sequence[Any], area: memoryview, codes: memoryview) -> None:
        """Write the arrays of a batch into the arena's action area, and their dtype codes beside it."""
        for i, (leaf, array) in enumerate(zip(self._leaves, parts, strict=False)):
            area[leaf.offset : leaf.offset + array.nbytes] = array.reshape(-1).view(np.uint8).data
            codes[i] = _CODES[array.dtype]

    def load(self, area: memoryview, codes: bytes, rows: slice) -> list[Array]:
        """Views of some rows of the action area, one array a leaf, in the dtypes that ``codes`` name."""
        return [
            np.ndarray(leaf.shape, np.dtype(_DTYPES[code]), area, leaf.offset)[rows]
            for leaf, code in zip(self._leaves, codes, strict=True)
        ]


def _contains(leaf: spaces.Space[Any], value: Any) -> bool:
    """Whether a side leaf holds a value; no value makes it raise."""
    try:
        return bool(leaf.contains(value))
    except NotImplementedError:  # a custom space without a test of its own: the environment judges
        return True
    except Exception:  # noqa: BLE001 - Gymnasium takes a value of another structure apart, and stumbles
        return not type(leaf).__module__.startswith("gymnasium.")  # of what a custom one stumbles over nobody knows


def _fits(dtype: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    return dtype == wanted or (dtype in _CODES and _RANKS[dtype.kind] <= _RANKS[wanted.kind])


def _cheap_test(space: spaces.Space[Any], count: int) -> Callable[[Array], bool]:
    """One pass over the elements that tells a right batch, the usual case, from one to look at closely."""
    if not count:
        return lambda _array: True
    if isinstance(space, spaces.Box):
        # the maximum is NaN if any element is
        return lambda array: array.dtype.kind != "f" or not np.isnan(array.max())
    if isinstance(space, spaces.MultiBinary) or (isinstance(space, spaces.Discrete) and space.start == 0):
        high = 1 if isinstance(space, spaces.MultiBinary) else int(space.n) - 1
        # no element is larger than the union of all bits; a negative one makes that negative
        return lambda array: 0 <= int(np.bitwise_or.reduce(array, axis=None)) <= high
    return lambda _array: False


def _outside(space: spaces.Space[Any], array: Array) -> Array:
    """Which elements no environment could take."""
    if isinstance(space, spaces.Box):
        nans: Array = np.isnan(array)
        return nans
    if isinstance(space, spaces.MultiBinary):
        neither: Array = (array != 0) & (array != 1)
        return neither
    assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    count = space.n if isinstance(space, spaces.Discrete) else space.nvec
    low: Any = space.start
    high: Any = space.start + (count - 1)  # start + count may be beyond the dtype
    outside: Array = (array < low) | (array > high)
    return outside
