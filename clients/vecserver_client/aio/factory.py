"""``aio.make_vec`` and ``aio.attach``: from an address to a vector environment, without blocking the loop."""

from __future__ import annotations

import asyncio
import inspect
import os
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import zmq

from vecserver.wire.errors import MalformedMessage, TransportUnavailable, Unauthorized, VecServerError
from vecserver.wire.session import ResumePoint
from vecserver_client import factory
from vecserver_client.aio.connection import AsyncConnection
from vecserver_client.aio.control import AsyncControlClient
from vecserver_client.aio.curve import LoopCurve
from vecserver_client.aio.transport import LoopTransport
from vecserver_client.aio.vector_env import AsyncRemoteVectorEnv
from vecserver_client.control import ControlClient
from vecserver_client.direct import DirectTransport
from vecserver_client.factory import driver_name
from vecserver_client.local_server import LocalServer
from vecserver_client.passes import credentials_of, fresh_keys
from vecserver_client.transport import ZmqTransport
from vecserver_client.verdicts import check_epoch, check_not_lost, verdict_on_pool
from vecserver_client.ways import check_way, reachable_endpoint

if TYPE_CHECKING:
    from vecserver_client.aio.transport import AsyncTransport
    from vecserver_client.passes import Credentials
    from vecserver_client.transport import Transport

__all__ = ["attach", "make_vec"]

_TRANSPORTS: Final = ("ipc", "tcp", "ws")
"""In the order that ``auto`` tries them. Shared memory is not among them: whoever rings workers waits for them."""

_CHECK_TIMEOUT: Final = 2.0
"""Seconds for the server to say whether a silent pool exists."""

_REACH_TIMEOUT: Final = 5.0
"""Seconds that a transport may take to answer an attach before the next one is tried."""

_GIVE_BACK_TIMEOUT: Final = 2.0
"""Seconds for a pool that was not meant to hear that its lease is given back."""

_OPTIONS: Final = inspect.signature(factory.make_vec)
_OURS: Final = {"url", "token", "transport", "copy", "dedup", "pool"}
"""Arguments that are not the pool's."""


async def make_vec(
    env_id: str,
    num_envs: int,
    *,
    url: str | None = None,
    token: str | None = None,
    transport: str = "auto",
    **options: Any,
) -> AsyncRemoteVectorEnv:
    """Make a pool and drive it.

    Args:
        env_id: A Gymnasium id that the server knows.
        num_envs: Rows.
        url: Address of a server; None for ``$VECSERVER_URL``, and if that is not set for a private server of this
            program, which ends with it.
        token: As in ``vecserver_client.make_vec``.
        transport: ``ipc``, ``tcp``, ``ws``, or ``auto`` for the first that works.
        **options: The others of ``vecserver_client.make_vec``, with the same defaults, but for ``copy`` and
            ``dedup``, which are not to be had here.

    Returns:
        The vector environment; its ``close`` removes the pool.

    Raises:
        VecServerError: As ``vecserver_client.make_vec``.
    """
    _check_transport(transport)
    pool_options = _pool_options(env_id, num_envs, options)
    made = _Made(url or os.environ.get("VECSERVER_URL"), token)
    try:
        control = await made.reach_server()
        name = options.get("pool")
        described = await control.create_pool(name=name or made.choose_pool(), **pool_options)
        made.own(described["pool"])
        envs = await _drive(made, control, described, transport, force=False)
    except BaseException:
        await made.release(unwanted=True)
        raise
    if pool_options["durable"]:
        made.own(None)
    return envs


async def attach(
    url: str,
    pool: str,
    *,
    token: str | None = None,
    transport: str = "auto",
    force: bool = False,
    resume: str | None = None,
) -> AsyncRemoteVectorEnv:
    """Drive a pool that exists; closing gives it back and does not remove it.

    Args:
        url: Address of the server.
        pool: The pool's id.
        token: As in ``vecserver_client.make_vec``.
        transport: ``ipc``, ``tcp``, ``ws``, or ``auto`` for the first that works.
        force: Take the pool from the driver it has.
        resume: Go on where another process was, as in ``vecserver_client.attach``.

    Raises:
        VecServerError: As ``vecserver_client.attach``.
    """
    _check_transport(transport)
    point = None if resume is None else ResumePoint.parse(resume)
    made = _Made(url, token)
    try:
        control = await made.reach_server()
        return await _drive(made, control, await control.get_pool(pool), transport, force=force, resume=point)
    except BaseException:
        await made.release(unwanted=True)
        raise


def _check_transport(transport: str) -> None:
    if transport not in ("auto", *_TRANSPORTS):
        raise TransportUnavailable(f"{transport!r} is no transport of an event loop: auto, {', '.join(_TRANSPORTS)}")


def _pool_options(env_id: str, num_envs: int, options: dict[str, Any]) -> dict[str, Any]:
    """What the server is asked for: the arguments and defaults of the other ``make_vec``."""
    given = _OPTIONS.bind(env_id, num_envs, **options)
    given.apply_defaults()
    if not given.arguments["copy"] or given.arguments["dedup"] is not None:
        raise TypeError(
            "an event loop reads ahead, and gives copies of whole batches: copy and dedup are not to be had"
        )
    return {name: value for name, value in given.arguments.items() if name not in _OURS}


class _Made:
    """What is made for an environment and ends with it.

    Args:
        url: Address of the server; None for a private one.
        token: As in ``vecserver_client.make_vec``.
    """

    def __init__(self, url: str | None, token: str | None) -> None:
        self._url = url
        self._token = token
        self._server: LocalServer | None = None
        self._control: AsyncControlClient | None = None
        self._pool: str | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """Of the sockets of this environment that libzmq has; made when it is asked for first."""
        if self._context is None:
            self._context = zmq.Context()
        return self._context

    async def reach_server(self) -> AsyncControlClient:
        """A client of the server, which is started first where there is none."""
        if not self._url:
            await self._start_server()
        assert self._url
        self._control = AsyncControlClient(self._url, self._token)
        return self._control

    async def _start_server(self) -> None:
        starting = asyncio.ensure_future(asyncio.to_thread(LocalServer))
        try:
            self._server = await asyncio.shield(starting)
        except asyncio.CancelledError:  # it starts all the same, and can be ended when it has
            self._server = await starting
            raise
        self._url, self._token = self._server.url, self._server.token

    def choose_pool(self) -> str:
        """The id of a pool that is about to be made: an interrupted request may still make it."""
        self._pool = f"p-{secrets.token_hex(4)}"
        return self._pool

    def own(self, pool: str | None) -> None:
        """End this pool with the environment; None to leave it to the server."""
        self._pool = pool

    async def release(self, *, unwanted: bool) -> None:
        """End the pool and the server; may be called again. Nobody waits for the batch of a pool that is unwanted."""
        try:
            if self._control is not None and self._pool is not None:
                with suppress(VecServerError):  # it may be gone already, or its server
                    await self._control.delete_pool(self._pool, force=unwanted)
                self._pool = None
        finally:
            if self._control is not None:
                await self._control.close()
            self._end_context()
            if self._server is not None:
                await asyncio.to_thread(self._server.close)
                self._server = None

    def abandon(self, *, unwanted: bool) -> None:
        """The same by blocking calls, for a moment without an event loop."""
        if self._pool is not None and self._url:
            # it may be gone already, or its server
            with suppress(VecServerError), ControlClient(self._url, self._token) as control:
                control.delete_pool(self._pool, force=unwanted)
            self._pool = None
        self._end_context()
        if self._server is not None:
            self._server.close()
            self._server = None

    def _end_context(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


async def _drive(
    made: _Made,
    control: AsyncControlClient,
    pool: dict[str, Any],
    transport: str,
    *,
    force: bool,
    resume: ResumePoint | None = None,
) -> AsyncRemoteVectorEnv:
    """Attach over the first transport that answers."""
    check_not_lost(pool)
    reasons = []
    driver = driver_name()
    for name in _TRANSPORTS if transport == "auto" else (transport,):
        try:
            endpoint = reachable_endpoint(name, pool["endpoints"], control.url)
            credentials = await _let_in(control, pool["pool"]) if name == "tcp" else None
            if transport == "auto":
                await asyncio.to_thread(check_way, name, endpoint, control.url, credentials)
            ways = _Ways(name, endpoint, int(pool["layout"]["slot_size"]), control.headers, credentials, made)
            check_pool = partial(_check_pool, control, pool["pool"], pool["epoch"], credentials)
            connection = AsyncConnection(driver, ways.open, check_pool)
            try:
                attached = await connection.attach(_REACH_TIMEOUT, force=force, resume=resume)
                try:
                    check_epoch(attached, pool, endpoint)
                except TransportUnavailable:
                    await connection.close(_GIVE_BACK_TIMEOUT)
                    raise
                at_once = attached.info.lease_expiry != "keep"  # a model may be built for long before the first request
                connection.keep(ways.open_blocking, attached.info.lease_ttl, at_once=at_once)
                return AsyncRemoteVectorEnv(connection, attached, name, made)
            except BaseException:
                connection.abort()
                raise
        except (TransportUnavailable, TimeoutError) as error:
            reasons.append(f"{name}: {error}")
        except (MalformedMessage, Unauthorized) as error:
            if transport != "auto":
                raise
            reasons.append(f"{name}: {error}")  # something else listens there
    raise TransportUnavailable(f"no transport reaches pool {pool['pool']}: {'; '.join(reasons)}")


class _Ways:
    """How connections to one pool are opened. Its repr has no secret.

    Args:
        name: The transport.
        endpoint: Where.
        max_body: Largest legal body of an answer, in bytes.
        headers: Of HTTP requests.
        credentials: What the pool's tcp port asks for.
        made: Has the context of libzmq's sockets.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        max_body: int,
        headers: dict[str, str],
        credentials: Credentials | None,
        made: _Made,
    ) -> None:
        self._name = name
        self._endpoint = endpoint
        self._max_body = max_body
        self._headers = headers
        self._credentials = credentials
        self._context = made.context if credentials is not None and credentials.encrypts else None

    def open(self) -> AsyncTransport:
        """One for the loop."""
        if self._name == "ws":
            from vecserver_client.aio.ws import LoopWebSocket  # its library only where it is needed

            return LoopWebSocket(self._endpoint, self._headers, self._max_body)
        if self._context is None:
            return LoopTransport(self._endpoint, self._max_body, credentials=self._credentials)
        return LoopCurve(ZmqTransport(self._context, self._endpoint, self._max_body, credentials=self._credentials))

    def open_blocking(self) -> Transport:
        """One for the thread that renews the lease: it waits, so it is none of the loop's."""
        if self._name == "ws":
            from vecserver_client.ws import WebSocketTransport  # its library only where it is needed

            return WebSocketTransport(self._endpoint, self._headers, self._max_body)
        if self._context is None:
            return DirectTransport(self._endpoint, self._max_body, credentials=self._credentials)
        return ZmqTransport(self._context, self._endpoint, self._max_body, credentials=self._credentials)


async def _let_in(control: AsyncControlClient, pool: str) -> Credentials:
    keys = fresh_keys()
    key = None if keys is None else keys.public.decode()
    return credentials_of(await control.ask_access(pool, key), keys)


async def _check_pool(control: AsyncControlClient, pool: str, epoch: str, credentials: Credentials | None) -> None:
    """Ask the server about a pool that is silent; where it lives, it may have forgotten this client's key."""
    answer: dict[str, Any] | VecServerError
    try:
        answer = await control.get_pool(pool, timeout=_CHECK_TIMEOUT)
    except VecServerError as error:
        answer = error
    if lost := verdict_on_pool(answer, pool, epoch, control.url):
        raise lost
    if credentials is not None and credentials.key is not None:
        with suppress(VecServerError):  # the connection that is made next tells
            await control.ask_access(pool, credentials.key, timeout=_CHECK_TIMEOUT)
