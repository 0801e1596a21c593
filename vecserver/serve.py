"""One server from its settings to its end: the socket, the registry, the app, the signals, and what is cleaned up."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import json
import logging
import os
import resource
import shutil
import socket
import stat
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvicorn

from vecserver import logs
from vecserver.config import SECRET_VARIABLES
from vecserver.connection_file import ConnectionFile, is_loopback, sweep
from vecserver.control.access.gate import Access
from vecserver.control.access.scopes import LOGIN_PATH, Scope
from vecserver.control.access.tokens import Token, Tokens, digest_of, new_token
from vecserver.control.app import create_app
from vecserver.control.connections import connection_class
from vecserver.control.openenv.sessions import Sessions
from vecserver.control.shortcut import ShortcutProtocol
from vecserver.control.web.mount import WebPage
from vecserver.pools.handshake import OWNER_FILE
from vecserver.pools.registry import Registry
from vecserver.pools.store import PoolStore
from vecserver.wire.errors import PortUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from vecserver.config import Settings

__all__ = ["Announcement", "run"]

_log = logging.getLogger(__name__)

_HOST_COMMAND: Final = (sys.executable, "-m", "vecserver.dataplane")
_PREFIX: Final = "vecserver-"
_BACKLOG: Final = 128
_OTHER_FILES: Final = 512
"""Files that a server without sessions may have open."""

_LAST_ANSWERS_S: Final = 2
"""Seconds that requests in flight have for their answers once all pools are gone."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What users of a server that accepts requests need to know.

    Attributes:
        url: Its address.
        login: A link that logs one browser in.
        token: The admin token.
        is_found: Whether this user's programs on this machine find the token by themselves.
    """

    url: str
    login: str = field(repr=False)
    token: str = field(repr=False)
    is_found: bool = True


def run(
    settings: Settings,
    *,
    parent_fd: int | None = None,
    log_level: str = "info",
    log_format: str = "text",
    announce: Callable[[Announcement], None] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or the parent's end; in the main thread, for signals to be seen.

    The first signal refuses new pools, ends all pools within the grace and then stops listening; a second one exits at
    once, and the pools' processes end because their server is gone.

    Args:
        settings: How to run.
        parent_fd: An inherited Unix stream socket. One line ``{"url", "pid", "token"}`` is written to it when the
            server accepts requests, and the server stops when the other end is closed, by whatever end of that process.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json`` or ``text``.
        announce: Called with what its users need to know when the server accepts requests.

    Raises:
        PortUnavailable: The port cannot be listened on.
    """
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)  # environments run in processes that inherit the others
    with (
        _listen(settings.host, settings.port) as listener,
        _own_directory(settings.runtime_dir) as directory,
        closing(_Parent(parent_fd)) if parent_fd is not None else nullcontext() as parent,
        ExitStack() as stack,
    ):
        logs.configure(log_format, log_level)  # once there is a server, for whoever calls this as a function
        address, port = listener.getsockname()[:2]
        url = _url(address, port, secure=settings.tls_cert is not None)
        token, access = _access(settings, port)
        local = stack.enter_context(_told_to_local_users(address, url, token))

        def on_ready() -> None:
            if parent is not None:
                parent.tell(url, token)
            if announce is not None:
                login = f"{url}{LOGIN_PATH}?code={access.logins.new_code(Scope.ADMIN)}"
                announce(Announcement(url, login, token, is_found=local is not None))

        registry = Registry(
            host_command=_HOST_COMMAND,
            runtime_dir=directory,
            bind_host=address,
            port_range=settings.data_port_range,
            caps=settings.caps,
            start_timeout=settings.start_timeout,
            grace=settings.grace,
            rules=settings.rules,
            limits=settings.worker_limits,
            passed=settings.pass_env,
            # what belongs to one program ends with it, and must not make another server's pools
            store=None if parent_fd is not None else PoolStore(settings.state_dir),
            keys=settings.curve_keys(),
            insecure=settings.insecure and not is_loopback(settings.host),
        )
        if registry.insecure:
            _log.warning(
                "INSECURE: whoever is on the network between here and a trainer can read and change every batch, and "
                "take over any pool; leave --insecure out for encryption"
            )
        sessions = Sessions(settings.sessions)
        _make_room_for(settings.openenv_sessions, settings.max_connections)
        page = WebPage(registry, sessions, everybody_plays=settings.openenv_public) if parent is None else None
        app = create_app(
            registry,
            sessions,
            page=page,
            access=access,
            loopback_only=is_loopback(settings.host),
            allowed_hosts=settings.allowed_hosts,
            limits=settings.http_limits,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            # at debug the headers and frames of every WebSocket would be logged, tokens with them
            log_level="info" if log_level == "debug" else log_level,
            # the same ones whatever else is installed: with the extra `web` come others, which uvicorn would prefer,
            # and the other parser lets requests with two Host headers through
            loop="asyncio",
            http=connection_class(settings.http_limits),
            ws=ShortcutProtocol,
            lifespan="off",
            server_header=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
            ws_max_size=settings.max_body_bytes,
            ws_per_message_deflate=False,  # small messages on a fast way: packing them takes longer than sending them
        )

        def on_stop() -> None:
            sessions.stop()
            if page is not None:
                page.stop()

        server = _Server(
            config,
            on_ready=on_ready,
            on_stop=on_stop,
            drain=registry.close,
            abandon=lambda: _abandon(registry, directory, local),
        )
        if parent is not None:
            parent.watch(server.stop)
        try:
            registry.restore(settings.declared)
            # beside all that was imported the collector would let the garbage of thousands of connections grow old
            gc.freeze()
            server.run(sockets=[listener])
        finally:
            registry.close()
            sessions.close()


def _access(settings: Settings, port: int) -> tuple[str, Access]:
    """The admin token, given or made now, and what is asked of whoever wants something."""
    token = settings.given_token or new_token()
    tokens = Tokens([Token("admin", digest_of(token), Scope.ADMIN), *settings.further_tokens])
    access = Access(
        tokens,
        openenv_public=settings.openenv_public,
        cookie=f"vecserver_session_{port}",
        secure=settings.tls_cert is not None,
        insecure=settings.insecure,
    )
    return token, access


def _told_to_local_users(
    address: str, url: str, token: str
) -> AbstractContextManager[ConnectionFile] | AbstractContextManager[None]:
    """This user's programs find the token by themselves, where there is a place for it."""
    sweep()
    try:
        return ConnectionFile(address, url, token)
    except OSError as error:
        _log.warning("no connection file, so programs of this machine need VECSERVER_TOKEN: %s", error)
        return nullcontext()


def _make_room_for(sessions: int, connections: int) -> None:
    """Raise the limit of open files, as far as this user may: a session has a connection and a process's socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * sessions + connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _abandon(registry: Registry, directory: Path, local: ConnectionFile | None) -> None:
    registry.kill()
    if local is not None:
        local.close()
    shutil.rmtree(directory, ignore_errors=True)


class _Server(uvicorn.Server):
    """uvicorn with an end of its own.

    Args:
        config: uvicorn's.
        on_ready: Called once requests are accepted.
        on_stop: Called in the event loop after the first signal.
        drain: Called in a thread of its own after the first signal, while requests are still answered.
        abandon: Called at the second signal, before the process exits at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
        drain: Callable[[], None],
        abandon: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._drain = drain
        self._abandon = abandon
        self._signalled = False

    def stop(self) -> None:
        """Ask the server to end; any thread may."""
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # a signal handler's arguments
        # uvicorn's own would raise the signal again at the end and so skip what is cleaned up after it
        if self._signalled:
            self._abandon()
            os._exit(128 + sig)
        self._signalled = True
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def main_loop(self) -> None:
        await super().main_loop()
        self._on_stop()
        # not in this thread: signals, /healthz and the answers to requests in flight need it
        with ThreadPoolExecutor(1, "drain") as own:  # the loop's own threads may all wait for pools
            await asyncio.get_running_loop().run_in_executor(own, self._drain)


class _Parent:
    """The process that started this one, at the other end of an inherited socket.

    Args:
        fd: The socket; owned from here on.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._watcher: threading.Thread | None = None

    def tell(self, url: str, token: str) -> None:
        """Say where the server is, and its token; a parent that is gone already is the watcher's matter."""
        line = json.dumps({"url": url, "pid": os.getpid(), "token": token}) + "\n"
        try:
            self._socket.sendall(line.encode())
        except ConnectionError:
            logging.getLogger(__name__).info("the parent was gone before the server was ready")

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call a function, from a thread of its own, when the other end is closed."""

        def wait() -> None:
            try:
                while self._socket.recv(64):
                    pass  # nothing is expected, and nothing it says keeps it alive
            except ConnectionError:
                pass  # reset instead of closed: gone all the same
            on_gone()

        self._watcher = threading.Thread(target=wait, name="parent-watch", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End the watcher and close the socket."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the watcher
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
        if self._watcher is not None:
            self._watcher.join()
        self._socket.close()


def _listen(host: str, port: int) -> socket.socket:
    """Listen on a TCP port before anything else is started, so that a port in use costs nothing and is named.

    Raises:
        PortUnavailable: Says why, and what to do.
    """
    try:
        # with the protocol named, asyncio turns Nagle's delay off for the connections: 40 ms a request
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise PortUnavailable(f"host {host!r} is no address of this machine: {error.strerror}", host=host) from None
    family, kind, protocol, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)  # two servers may bind the same port; only one may listen
    except OSError as error:
        listener.close()
        raise PortUnavailable(_why_not(error, host, port), host=host, port=port) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use: choose another with --port (0 for any free one), or stop what listens "
            f"there (`ss -ltnp sport = :{port}` names it)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges that this process does not have: choose one above 1023 with --port"
    return f"{host} port {port} cannot be listened on: {error.strerror}"


def _url(address: str, port: int, *, secure: bool = False) -> str:
    """Where this machine reaches the server."""
    scheme = "https" if secure else "http"
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  # compared, not bound
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


@contextmanager
def _own_directory(base: Path) -> Iterator[Path]:
    """A directory that only this user may enter, removed at the end; those of killed servers are removed now."""
    base.mkdir(parents=True, exist_ok=True)
    _sweep(base)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    try:
        with (directory / "owner.new").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # until this process has ended, however it ends
            (directory / "owner.new").rename(directory / OWNER_FILE)  # now: who finds it unlocked removes the folder
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Remove the directories of this user's servers that were killed: nobody holds the lock of their owner any more."""
    for directory in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another's, no directory, without an owner, or one whose owner lives
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            fd = os.open(directory / OWNER_FILE, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(fd)
