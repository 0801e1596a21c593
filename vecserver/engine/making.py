"""What a worker makes before it has an arena: its engine, or an environment to time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vecserver.engine.base import RowFaults, fault_of
from vecserver.engine.channel import Failed, Ready, Start, send
from vecserver.engine.infos import InfoOptions
from vecserver.engine.lost import LostVectorMaker, makes_lost_rows
from vecserver.engine.make import EnvMaker
from vecserver.engine.table import REPLAY, VECTORISED, make_engine
from vecserver.engine.wrappers import wrap
from vecserver.wire.codec import pack
from vecserver.wire.errors import EnvCreationFailed, VecServerError
from vecserver.wire.spaces import space_to_json

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import gymnasium

    from vecserver.engine.base import Engine

__all__ = ["made", "measured"]

_log = logging.getLogger(__name__)


def measured(start: Start) -> float | None:
    """Microseconds of a row's step; None where its environment raised."""
    from vecserver.engine.measuring import row_us

    try:
        return row_us(_maker(start))
    except BaseException as error:  # noqa: BLE001 - an environment may raise anything, and raises it again in the pool
        _log.debug("an environment that was made to time its steps raised: %r", error)
        return None


def _maker(start: Start) -> Any:
    """How rows are made, also in the place of lost ones: what the engine takes."""
    make: Any = _plain_maker(start)
    if start.lost is None:
        return make
    if start.engine in VECTORISED:
        return LostVectorMaker(make, start.lost)
    return makes_lost_rows(make, start.lost, start.rows[0])


def _plain_maker(start: Start) -> Callable[[int], gymnasium.Env[Any, Any]]:
    """Pickles are loaded only where a program started this worker for callables of its own."""
    if not start.program:
        return EnvMaker(start.env_id, start.env_kwargs, start.render_mode, start.wrappers)
    from vecserver.engine.pickled import RowMaker, pickle_infos

    pickle_infos()
    try:
        made = RowMaker(start.program, start.rows[0])
    except Exception as error:  # a module that cannot be imported here, say
        raise RowFaults([fault_of(start.rows[0], error)]) from error
    if start.engine in VECTORISED:
        return made.first
    return lambda row: wrap(made(row), start.wrappers)


def made(start: Start, sock: socket.socket) -> Engine | None:
    """Make the engine and say so to the host; None where it could not be made, which is said too."""
    try:
        engine = _engine(start)
    except RowFaults as faults:
        send(sock, Failed(faults.faults[0]))
        return None
    except VecServerError as error:  # what the environments are and what the pool is to be do not go together
        send(sock, Failed(fault_of(start.rows[0], error), error.code, error.details))
        return None
    try:
        ready = _described(start, engine)
    except Exception as error:  # noqa: BLE001 - an unsupported space, or a metadata of the wrong type
        engine.close()
        code = error.code if isinstance(error, VecServerError) else EnvCreationFailed.code
        send(sock, Failed(fault_of(start.rows[0], error), code))
        return None
    send(sock, ready)
    return engine


def _engine(start: Start) -> Engine:
    infos = InfoOptions(start.info, start.episode_statistics, start.lost)
    name = REPLAY if start.replay else start.engine
    engine = make_engine(name, _maker(start), start.rows, start.autoreset_mode, infos, start.observation_mode)
    # one for all: only a program's own rows may be of different kinds
    if start.replay and start.lost is None and (start.program or start.rows[0] == 0):
        from vecserver.engine.determinism import check_replay

        try:
            check_replay(_plain_maker(start), start.rows[0], infos)
        except BaseException:
            engine.close()
            raise
    return engine


def _described(start: Start, engine: Engine) -> Ready:
    info = engine.info
    each = info.row_observation_spaces
    steps_kept = getattr(engine, "steps_kept", 0)
    if start.program:
        objects = pack([info.observation_space, info.action_space, info.metadata, each])
        return Ready({}, {}, {}, info.render_mode, objects=objects, steps_kept=steps_kept)
    return Ready(
        space_to_json(info.observation_space),
        space_to_json(info.action_space),
        _json_only(info.metadata),
        info.render_mode,
        None if each is None else [space_to_json(space) for space in each],
        steps_kept=steps_kept,
    )


def _json_only(metadata: dict[str, Any]) -> dict[str, Any]:
    """The entries of an environment's metadata that a description can carry."""
    plain = (str, int, float, bool, type(None))

    def carried(value: Any) -> bool:
        return isinstance(value, plain) or (isinstance(value, list) and all(isinstance(item, plain) for item in value))

    return {str(key): value for key, value in metadata.items() if carried(value)}
