"""``make_vec`` and ``attach``: from an address to a vector environment."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import zmq

from vecserver.wire.errors import (
    InvalidSpec,
    MalformedMessage,
    PoolBroken,
    TransportUnavailable,
    Unauthorized,
    VecServerError,
)
from vecserver.wire.layout import Layout
from vecserver.wire.session import ResumePoint
from vecserver.wire.spaces import space_from_json
from vecserver.wire.stacks import FEATURE, StackFormat
from vecserver.wire.zmtp import fresh
from vecserver_client.bodies import BodyRing
from vecserver_client.borrowed import BorrowedArena
from vecserver_client.connection import Connection
from vecserver_client.control import ControlClient
from vecserver_client.direct import DirectTransport
from vecserver_client.local_server import LocalServer
from vecserver_client.passes import credentials_of, fresh_keys
from vecserver_client.remote_vector_env import RemoteVectorEnv
from vecserver_client.transport import ZmqTransport
from vecserver_client.verdicts import check_epoch, check_not_lost, verdict_on_pool
from vecserver_client.ways import LOOPBACK, check_way, reachable_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gymnasium.vector import AutoresetMode

    from vecserver.wire import messages
    from vecserver_client.passes import Credentials
    from vecserver_client.transport import Transport

__all__ = ["TRANSPORTS", "attach", "driver_name", "make_vec"]

TRANSPORTS: Final = ("shm", "ipc", "tcp", "ws")
"""Every transport, in the order that ``auto`` tries them."""

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
    on_failure: str = "truncate",
    restart_budget: int | None = 30,
    lease_expiry: str = "keep",
    render_mode: str | None = None,
    pool: str | None = None,
    durable: bool = False,
    **env_kwargs: Any,
) -> RemoteVectorEnv:
    """Make a pool and drive it.

    Args:
        env_id: A Gymnasium id that the server knows.
        num_envs: Rows.
        url: Address of a server; None for ``$VECSERVER_URL``, and if that is not set for a private server of this
            program, which ends with it.
        token: Of the server; None for ``$VECSERVER_TOKEN``, and if that is not set for that of this user's own server
            on this machine, which is found by itself.
        transport: ``shm``, ``ipc``, ``tcp``, ``ws``, or ``auto`` for the first that works.
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
        step_timeout: Seconds that a worker may take for a step, a reset or a call before it is killed and replaced.
        lease_ttl: Seconds of silence after which another client may take the pool. While this program lives it is not
            silent, whatever it computes.
        lease_expiry: What else becomes of the pool then: ``keep``, ``reset`` (all rows) or ``destroy``.
        on_failure: What the death of a worker means: ``truncate``, its rows come back truncated, with the cause under
            ``infos["env_failure"]``, and go on with new environments; ``raise``, ``step`` raises WorkerDied, once; or
            ``replay``, its rows are rebuilt from their seeds and actions and go on as if nothing had happened. That is
            for separate environments of which all comes from their seeds and actions: it is tried before the pool is
            made.
        restart_budget: How many workers may be replaced within a minute before the pool is broken; None for any number.
        render_mode: Passed to ``gymnasium.make``.
        pool: Id of the pool; None for one made up.
        durable: Leave the pool to the server, which makes it again, with a new epoch, when its host has ended and when
            the server starts again: ``attach`` finds it. Not with a private server. See docs/operations.md.
        **env_kwargs: Passed to ``gymnasium.make``; JSON values.

    Returns:
        The vector environment; its ``close`` removes the pool, unless it is durable.

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
            url, token = server.url, server.token
        control = ControlClient(url, token)
        undo.callback(control.close)
        made = _MadePool(control, pool or f"p-{secrets.token_hex(4)}")
        if pool is None:  # a name that was chosen may be another's pool's
            undo.callback(made.delete)  # before it is made: an interrupted request may still make it
        described = control.create_pool(
            name=made.name,
            durable=durable,
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
            on_failure=on_failure,
            restart_budget=restart_budget,
            lease_expiry=lease_expiry,
            render_mode=render_mode,
            env_kwargs=env_kwargs,
        )
        if pool is not None:
            undo.callback(made.delete)
        envs = _drive(control, described, transport, undo, made, copy=copy, dedup=dedup)
        made.stays = durable
        return envs


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
        token: As in ``make_vec``.
        transport: ``shm``, ``ipc``, ``tcp``, ``ws``, or ``auto`` for the first that works.
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
        control = ControlClient(url, token)
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
        self.name = name
        self.unwanted = False
        """Whether nobody waits for the batch it is at."""
        self.stays = False
        """Whether it is left to the server."""

    def delete(self) -> None:
        """End it, unless it stays."""
        if self.stays:
            return
        try:
            self._control.delete_pool(self.name, force=self.unwanted)
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
    check_not_lost(pool)
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
            credentials = _let_in(control, pool["pool"]) if name == "tcp" else None
            endpoint = reachable_endpoint(name, pool["endpoints"], control.url)
            if transport == "auto":
                check_way(name, endpoint, control.url, credentials)
            connection, attached, arena = _reach(
                context, control, name, endpoint, pool, driver, bodies, credentials, force=force, resume=resume
            )
        except (TransportUnavailable, TimeoutError) as error:
            reasons.append(f"{name}: {error}")
            continue
        except PoolBroken as error:
            if (name, transport) != ("shm", "auto"):
                raise
            reasons.append(f"{name}: {error}")  # a reset, over another transport, has its workers made again
            continue
        except (MalformedMessage, Unauthorized) as error:
            if transport != "auto":
                raise
            reasons.append(f"{name}: {error}")  # something else listens there
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
    endpoint: str,
    pool: dict[str, Any],
    driver: str,
    bodies: BodyRing | None,
    credentials: Credentials | None,
    *,
    force: bool,
    resume: ResumePoint | None,
) -> tuple[Connection, messages.Attached, BorrowedArena | None]:
    door = None
    if name == "shm":  # steps go there, and everything else over ipc
        door, endpoint = endpoint, reachable_endpoint("ipc", pool["endpoints"], control.url)
    largest = int(pool["layout"]["slot_size"])
    open_to = partial(_web_opener, control) if name == "ws" else partial(_opener, context, credentials=credentials)
    opener = open_to(endpoint, largest, fresh if bodies is None else bodies.room)
    check_pool = partial(_check_pool, control, pool["pool"], pool["epoch"], credentials)
    connection = Connection(driver, opener, check_pool, open_to(endpoint, largest))
    try:
        attached = connection.attach(_REACH_TIMEOUT, force=force, resume=resume)
        check_epoch(attached, pool, endpoint)
        if door is None:  # over shm the process itself is the sign of life
            at_once = attached.info.lease_expiry != "keep"  # a model may be built for long before the first request
            connection.keep(open_to(endpoint, largest), attached.info.lease_ttl, at_once=at_once)
            return connection, attached, None
        path = door.removeprefix("shm://")
        return connection, attached, BorrowedArena(path, attached.lease, attached.epoch, _REACH_TIMEOUT, check_pool)
    except BaseException:
        connection.close(_GIVE_BACK_TIMEOUT)  # where there is no lease to give back, it does not wait
        raise


def _let_in(control: ControlClient, pool: str) -> Credentials:
    """Ask the server for what the pool's tcp port wants to see."""
    keys = fresh_keys()
    key = None if keys is None else keys.public.decode()
    return credentials_of(control.ask_access(pool, key), keys)


def _check_pool(control: ControlClient, pool: str, epoch: str, credentials: Credentials | None) -> None:
    """Ask the server about a pool that is silent; where it lives, it may have forgotten this client's key."""
    answer: dict[str, Any] | VecServerError
    try:
        answer = control.get_pool(pool, timeout=_CHECK_TIMEOUT)
    except VecServerError as error:
        answer = error
    if lost := verdict_on_pool(answer, pool, epoch, control.url):
        raise lost
    if credentials is not None and credentials.key is not None:
        with suppress(VecServerError):  # the connection that is made next tells
            control.ask_access(pool, credentials.key, timeout=_CHECK_TIMEOUT)


def _opener(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoint: str,
    max_body: int,
    memory: Callable[[int], memoryview] = fresh,
    *,
    credentials: Credentials | None = None,
) -> Callable[[], Transport]:
    """What opens a connection to an endpoint: on one machine a plain socket, across a network ZeroMQ's own thread."""
    encrypts = credentials is not None and credentials.encrypts
    if endpoint.startswith("ipc://") or (urlsplit(endpoint).hostname in LOOPBACK and not encrypts):
        return partial(DirectTransport, endpoint, max_body, memory, credentials=credentials)
    return partial(ZmqTransport, context, endpoint, max_body, memory, credentials=credentials)


def _web_opener(
    control: ControlClient, endpoint: str, max_body: int, memory: Callable[[int], memoryview] = fresh
) -> Callable[[], Transport]:
    from vecserver_client.ws import WebSocketTransport  # its library only where it is needed

    # no partial, whose repr would show a token
    return lambda: WebSocketTransport(endpoint, control.headers, max_body, memory)
