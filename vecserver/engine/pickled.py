"""What a program and its own workers hand each other beyond plain values, by pickle: callables, spaces, exceptions.

Who loads a pickle runs what its writer wrote. Both ends are therefore one program: a process, and the workers that it
started itself and talks to over a socket pair and memory without a name. A server has no part in this. Its hosts are
given no callables, no request has a field for any, and a worker that was started without them loads no pickle.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import cloudpickle
import gymnasium

from vecserver.wire.codec import FOREIGN, Foreign
from vecserver.wire.errors import Unportable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Program", "RowMaker", "by_pickle", "pickle_infos"]

_log = logging.getLogger(__name__)


def _dump(value: Any, name: str) -> bytes:
    try:
        data: bytes = cloudpickle.dumps(value)
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise Unportable(f"{name} is a {kind}, which cannot travel: it cannot be pickled: {error}") from error
    return data


def _load(data: bytes | memoryview) -> Any:
    return cloudpickle.loads(data)


_BOTH_WAYS: Final = Foreign(_dump, _load)


@contextmanager
def by_pickle() -> Iterator[None]:
    """Around what one end packs for the other, or unpacks from it; around nothing else."""
    token = FOREIGN.set(_BOTH_WAYS)
    try:
        yield
    finally:
        FOREIGN.reset(token)


def pickle_infos() -> None:
    """Have this worker pickle what its environments return, from now on.

    It loads no pickle for it: an environment may talk to servers of its own with the same codec.
    """
    FOREIGN.set(Foreign(_dump, None))


class Program:
    """The environments of a program, as its own workers are told about them.

    Args:
        env_fns: Makes one environment each, a row each.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        self._env_fns = env_fns
        self._registered = _dump_registered()

    def dump(self, rows: tuple[int, int]) -> bytes:
        """Pickle what the worker of some rows needs: their callables, and the environments that are registered here.

        Raises:
            Unportable: A callable cannot be pickled.
        """
        return _dump((self._registered, _dump(list(self._env_fns[slice(*rows)]), "`env_fns`")), "`env_fns`")


def _dump_registered() -> bytes:
    """The environments that this program registered: a worker's interpreter has not run what registers them."""
    registered = {env_id: spec for env_id, spec in gymnasium.registry.items() if not _is_stock(spec.entry_point)}
    try:
        return _dump(registered, "the registry")
    except Unportable as error:  # by an environment that these rows need not have anything to do with
        _log.debug("%s", error)
        return _dump({}, "the registry")


def _is_stock(entry_point: Any) -> bool:
    return isinstance(entry_point, str) and entry_point.startswith("gymnasium.")


class RowMaker:
    """Makes the rows of a shard by callables of the program that started this worker.

    Args:
        program: What ``Program.dump`` wrote.
        first: The shard's first row.
    """

    def __init__(self, program: bytes, first: int) -> None:
        registered, env_fns = _load(program)
        try:
            gymnasium.registry.update(_load(registered))
        except Exception as error:  # noqa: BLE001 - rows that need none of them can be made all the same
            _log.warning("environments that the program registered are not known here: %s", error)
        self._env_fns: list[Callable[[], gymnasium.Env[Any, Any]]] = _load(env_fns)
        self._first = first

    @property
    def first(self) -> Callable[..., gymnasium.Env[Any, Any]]:
        """What makes the first row; what makes all of them where they are one vector environment."""
        return self._env_fns[0]

    def __call__(self, row: int) -> gymnasium.Env[Any, Any]:
        """Make the environment of a row, by its number in the pool."""
        return self._env_fns[row - self._first]()
