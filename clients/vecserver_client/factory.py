"""``make_vec`` and ``attach``: from an address to a vector environment."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import zmq

from vecserver.wire.errors import (
    InvalidSpec,
    PoolLost,
    ServerUnreachable,
    TransportUnavailable,
    UnknownPool,
    VecServerError,
)
from vecserver.wire.layout import Layout
from vecserver.wire.session import ResumePoint
from vecserver.wire.spaces import space_from_json
from vecserver.wire.stacks import FEATURE, StackFormat
from vecserver.wire.zmtp import fresh
from vecserver_client.bodies import BodyRing
from vecserver_client.connection import Connection
from vecserver_client.control import ControlClient
from vecserver_client.direct import DirectTransport
from vecserver_client.local_server import LocalServer
from vecserver_client.shm import BorrowedArena
from vecserver_client.transport import ZmqTransport
from vecserver_client.vector_env import RemoteVectorEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gymnasium.vector import AutoresetMode

    from vecserver.wire import messages
    from vecserver_client.transport import Transport

__all__ = ["TRANSPORTS", "attach", "driver_name", "make_vec", "reachable_endpoint", "verdict_on_pool"]

TRANSPORTS: Final = ("shm", "ipc", "tcp")
"""Every transport, in the order that ``auto`` tries them."""

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - recognised in an address, not bound
_CHECK_TIMEOUT: Final = 2.0
"""Seconds for the server to say whether a silent pool exists."""

_GIVE_BACK_TIMEOUT: Final = 2.0
"""Seconds for the pool to hear that a lease is given back whose arena could not be had."""

_REACH_TIMEOUT: Final = 5.0
"""Seconds that a transport may take to answer an attach before the next one is tried."""


def make_vec(
    env_id: str,
    num_envs: int,
    *,
    url: str | None = None,
    token: str | None = None,
    transport: str = "auto",
    copy: bool = True,
    dedup: str | None = None,
    engine: str = "auto",
    workers: int | None = None,
    autoreset_mode: str | AutoresetMode = "NextStep",
    observation_mode: str = "same",
    wrappers: Sequence[str | dict[str, Any]] = (),
    info: str | Sequence[str] = "all",
    episode_statistics: bool = False,
    step_timeout: float = 60.0,
    lease_ttl: float = 60.0,
    lease_expiry: str = "keep",
    render_mode: str | None = None,
    **env_kwargs: Any,
) -> RemoteVectorEnv:
    """Make a pool and drive it.

    Args:
        env_id: A Gymnasium id that the server knows.
        num_envs: Rows.
        url: Address of a server; None for ``$VECSERVER_URL``, and if that is not set for a private server of this
            program, which ends with it.
        token: Bearer token of the server; None for ``$VECSERVER_TOKEN``.
        transport: ``shm``, ``ipc``, ``tcp``, or ``auto`` for the first that works.
        copy: Whether observations are the caller's own memory. If not, they cannot be written to, and stay as they are
            until the third step or reset after theirs begins, whether or not that succeeds; renders and calls leave
            them alone. Over ``shm`` they lie in the pool's memory: a client that takes the pool writes over them when
            it likes. Everything else that is returned is the caller's own in any case.
        dedup: ``frames``: of observations that are stacks of frames, such as FrameStackObservation's, only the newest
            frame travels where the others were in the last one already. For slow networks; without effect over ``shm``.
        engine: ``envs``, ``async``, ``sync``, ``native`` or ``auto``, which is never ``native``: see docs/engines.md.
        workers: Worker processes; None for as many as pay.
        autoreset_mode: ``NextStep``, ``SameStep`` or ``Disabled``, or Gymnasium's enum.
        observation_mode: ``same``, or ``different`` where the rows' observation spaces may differ in their bounds.
        wrappers: Gymnasium's wrappers to put around each row's environment, the first innermost: names, or
            ``{"id": name, "kwargs": {…}}``.
        info: Which of the environments' infos arrive: ``all``, ``none``, ``episode`` (none, and
            ``episode_statistics``), or a list of their keys. ``final_obs`` always does.
        episode_statistics: Report return, length and time of each episode that ends under ``infos["episode"]``, as
            ``gymnasium.wrappers.vector.RecordEpisodeStatistics`` does.
        step_timeout: Seconds that a batch may take before ``step`` raises DeadlineExceeded.
        lease_ttl: Seconds of silence after which another client may take the pool. While this program lives it is not
            silent, whatever it computes.
        lease_expiry: What else becomes of the pool then: ``keep``, ``reset`` (all rows) or ``destroy``.
        render_mode: Passed to ``gymnasium.make``.
        **env_kwargs: Passed to ``gymnasium.make``; JSON values.

    Returns:
        The vector environment; its ``close`` removes the pool.

    Raises:
        UnknownEnv: The server does not know the id; names the nearest.
        EnvCreationFailed: An environment could not be made; has its own message.
        InvalidSpec: An option out of range.
        CapExceeded: A limit of the server; names it.
        ServerUnreachable: Nobody answers at the address.
    """
    _check_transport(transport)
    _check_dedup(dedup)
    with ExitStack() as undo:
        url = url or os.environ.get("VECSERVER_URL")
        if not url:
            server = LocalServer()
            undo.callback(server.close)
            url = server.url
        control = ControlClient(url, token or os.environ.get("VECSERVER_TOKEN"))
        undo.callback(control.close)
        name = f"p-{secrets.token_hex(4)}"
        made = _MadePool(control, name)
        undo.callback(made.delete)  # before it is made: an interrupted request may still make it
        pool = control.create_pool(
            name=name,
            env_id=env_id,
            num_envs=num_envs,
            engine=engine,
            workers=workers,
            autoreset_mode=getattr(autoreset_mode, "value", autoreset_mode),
            observation_mode=observation_mode,
            wrappers=wrappers,
            info=info,
            episode_statistics=episode_statistics,
            step_timeout=step_timeout,
            lease_ttl=lease_ttl,
            lease_expiry=lease_expiry,
            render_mode=render_mode,
            env_kwargs=env_kwargs,
        )
        return _drive(control, pool, transport, undo, made, copy=copy, dedup=dedup)


def attach(
    url: str,
    pool: str,
    *,
    token: str | None = None,
    transport: str = "auto",
    copy: bool = True,
    dedup: str | None = None,
    force: bool = False,
    resume: str | None = None,
) -> RemoteVectorEnv:
    """Drive a pool that exists; closing gives it back and does not remove it.

    Args:
        url: Address of the server.
        pool: The pool's id.
        token: Bearer token of the server; None for ``$VECSERVER_TOKEN``.
        transport: ``shm``, ``ipc``, ``tcp``, or ``auto`` for the first that works.
        copy: Whether observations are the caller's own memory, as in ``make_vec``.
        dedup: What of an observation need not travel, as in ``make_vec``.
        force: Take the pool from the driver it has.
        resume: The ``resume_token`` of a vector environment that drove the pool in a process that is gone: go on where
            it was. ``pending_call`` of what is returned says which call's answer that process has not heard:
            ``step_wait``, ``reset_wait`` or ``call_wait`` returns it. Not over ``shm``.

    Raises:
        UnknownPool: No pool has this id.
        LeaseHeld: Another client drives it.
        LeaseLost: Another client has driven it since the token was taken.
        SequenceStale: More than one call was begun since the token was taken.
        EpochMismatch: The pool was made again since.
        ServerUnreachable: Nobody answers at the address.
    """
    _check_transport(transport)
    _check_dedup(dedup)
    with ExitStack() as undo:
        control = ControlClient(url, token or os.environ.get("VECSERVER_TOKEN"))
        undo.callback(control.close)
        point = None if resume is None else ResumePoint.parse(resume)
        shown = control.get_pool(pool)
        return _drive(control, shown, transport, undo, copy=copy, dedup=dedup, force=force, resume=point)


def _check_transport(transport: str) -> None:
    if transport not in ("auto", *TRANSPORTS):
        raise TransportUnavailable(f"{transport!r} is no transport: auto, {', '.join(TRANSPORTS)}")


def _check_dedup(dedup: str | None) -> None:
    if dedup not in (None, FEATURE):
        raise InvalidSpec(f"dedup is {dedup!r}; it is {FEATURE!r}, or None", field="dedup")


class _MadePool:
    """A pool that lives as long as the environment it was made for."""

    def __init__(self, control: ControlClient, name: str) -> None:
        self._control = control
        self._name = name
        self.unwanted = False
        """Whether nobody waits for the batch it is at."""

    def delete(self) -> None:
        """End it."""
        try:
            self._control.delete_pool(self._name, force=self.unwanted)
        except VecServerError:
            return  # it is gone already, or its server is


def _drive(
    control: ControlClient,
    pool: dict[str, Any],
    transport: str,
    undo: ExitStack,
    made: _MadePool | None = None,
    *,
    copy: bool,
    dedup: str | None,
    force: bool = False,
    resume: ResumePoint | None = None,
) -> RemoteVectorEnv:
    """Attach over the first transport that answers; what ``undo`` holds is then undone when the environment closes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    undo.callback(context.destroy, linger=0)  # closes what is still open: a plain term would wait for it for ever
    if dedup is not None:  # before anybody loses the pool to this client
        _check_stacks(pool)
    reasons = []
    driver = driver_name()
    bodies = None if copy else BodyRing(int(pool["layout"]["slot_size"]))
    names: tuple[str, ...] = TRANSPORTS if transport == "auto" else (transport,)
    if resume is not None:  # steps in the arena have no numbers
        names = tuple(name for name in names if name != "shm")
    for name in names:
        try:
            connection, attached, arena = _reach(
                context, control, name, pool, driver, bodies, force=force, resume=resume
            )
        except (TransportUnavailable, TimeoutError) as error:
            reasons.append(f"{name}: {error}")
            continue
        kept = ExitStack()
        try:
            envs = RemoteVectorEnv(connection, attached, name, partial(_release, kept, made), arena, bodies, dedup)
        except BaseException:
            connection.close(_GIVE_BACK_TIMEOUT)
            raise
        kept.push(undo.pop_all())
        return envs
    why = "; ".join(reasons) or "steps over shm have no numbers by which they could be resumed"
    raise TransportUnavailable(f"no transport reaches pool {pool['pool']}: {why}")


def _check_stacks(pool: dict[str, Any]) -> None:
    space = space_from_json(pool["spaces"]["observation"])
    if StackFormat.of(Layout.of(space, int(pool["num_envs"])), space) is None:
        raise InvalidSpec(f"dedup: {space} is no stack of frames, a Box of uint8 with two axes or more")


def _release(undo: ExitStack, made: _MadePool | None, unwanted: bool) -> None:  # noqa: FBT001 - called with it alone
    if made is not None:
        made.unwanted = unwanted
    undo.close()


def driver_name() -> str:
    """What a pool and people call a driver of this program: unlike any other's."""
    return f"{socket.gethostname()} (pid {os.getpid()}, {secrets.token_hex(3)})"


def _reach(
    context: zmq.Context[zmq.Socket[bytes]],
    control: ControlClient,
    name: str,
    pool: dict[str, Any],
    driver: str,
    bodies: BodyRing | None,
    *,
    force: bool,
    resume: ResumePoint | None,
) -> tuple[Connection, messages.Attached, BorrowedArena | None]:
    endpoint = reachable_endpoint(name, pool["endpoints"], control.url)
    door = None
    if name == "shm":  # steps go there, and everything else over ipc
        door, endpoint = endpoint, reachable_endpoint("ipc", pool["endpoints"], control.url)
    largest = int(pool["layout"]["slot_size"])
    opener = _opener(context, endpoint, largest, fresh if bodies is None else bodies.room)
    check_pool = partial(_check_pool, control, pool["pool"])
    connection = Connection(driver, opener, check_pool, _opener(context, endpoint, largest))
    try:
        attached = connection.attach(_REACH_TIMEOUT, force=force, resume=resume)
        if door is None:  # over shm the process itself is the sign of life
            connection.keep(_opener(context, endpoint, largest), attached.info.lease_ttl)
            return connection, attached, None
        path = door.removeprefix("shm://")
        return connection, attached, BorrowedArena(path, attached.lease, attached.epoch, _REACH_TIMEOUT, check_pool)
    except BaseException:
        connection.close(_GIVE_BACK_TIMEOUT if door is not None else 0.0)
        raise


def _check_pool(control: ControlClient, pool: str) -> None:
    """Ask the server about a pool that is silent."""
    answer: dict[str, Any] | VecServerError
    try:
        answer = control.get_pool(pool, timeout=_CHECK_TIMEOUT)
    except VecServerError as error:
        answer = error
    if lost := verdict_on_pool(answer, pool, control.url):
        raise lost


def verdict_on_pool(answer: dict[str, Any] | VecServerError, pool: str, url: str) -> VecServerError | None:
    """What the server's answer about a silent pool means: PoolLost or UnknownPool where it is known to be gone.

    Args:
        answer: The pool as ``ControlClient.get_pool`` gives it, or the error that it raised.
        pool: Its id.
        url: The server's address.
    """
    match answer:
        case UnknownPool():
            return answer
        case ServerUnreachable(details={"refused": True}):  # otherwise it may be the network
            return PoolLost(f"the server at {url} is gone, and pool {pool} with it", pool=pool)
        case {"state": "lost", "reason": reason}:
            return PoolLost(f"pool {pool} is lost with its episodes: {reason}", pool=pool)
    return None  # it lives, or the trouble is the control plane's own


def _opener(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, max_body: int, memory: Callable[[int], memoryview] = fresh
) -> Callable[[], Transport]:
    """What opens a connection to an endpoint: on one machine a plain socket, across a network ZeroMQ's own thread."""
    if endpoint.startswith("ipc://") or urlsplit(endpoint).hostname in _LOOPBACK:
        return partial(DirectTransport, endpoint, max_body, memory)
    return partial(ZmqTransport, context, endpoint, max_body, memory)


def reachable_endpoint(name: str, endpoints: dict[str, str], url: str) -> str:
    """The pool's endpoint for a transport, as this machine reaches it.

    Args:
        name: ``shm``, ``ipc`` or ``tcp``.
        endpoints: What the server says of the pool's addresses.
        url: The server's own address.

    Raises:
        TransportUnavailable: There is none, or no way to it.
    """
    endpoint = endpoints.get(name)
    if endpoint is None:
        raise TransportUnavailable(f"the pool has no {name} endpoint")
    host = urlsplit(url).hostname or ""
    if name in ("ipc", "shm"):
        path = Path(endpoint.removeprefix(f"{name}://"))
        if host not in _LOOPBACK or not os.access(path, os.W_OK):
            raise TransportUnavailable("the pool's socket is on another machine, or another user's")
        return endpoint
    address = urlsplit(endpoint)
    bound = address.hostname or ""
    if bound in _LOOPBACK and host not in _LOOPBACK:
        raise TransportUnavailable(f"the pool listens on {bound} only; start the server with another --host")
    if bound in _WILDCARDS or host not in _LOOPBACK:
        return f"tcp://[{host}]:{address.port}" if ":" in host else f"tcp://{host}:{address.port}"
    return endpoint
