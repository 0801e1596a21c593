"""The nursery as the web process sees it: started with the first session, asked for copies, watched, ended.

Everything here belongs to the event loop's thread, but for ``close`` when that loop has ended.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import msgspec

from vecserver.pools.sessions.answers import Answer, Ask, Kind
from vecserver.pools.sessions.nursery import MAX_NOTE, Ended, Fork, Forked, Kill, read_note, write_note
from vecserver.pools.sessions.process import HEAD, MAX_ANSWER
from vecserver.pools.starting import for_environments
from vecserver.wire.errors import HostStartFailed, SessionLost

if TYPE_CHECKING:
    from collections.abc import Collection

    from vecserver.pools.sessions.play import PlayOptions

__all__ = ["Nursery", "SessionProcess"]

_EXIT_CODE_S: Final = 2.0
"""Seconds that the nursery may take to tell how a process ended whose socket is closed."""

_KILL_AGAIN_S: Final = 0.02
"""Seconds until a nursery that forks is told again whom to kill, where its socket is full."""

_FORKS_AT_ONCE: Final = 8
"""Copies that are asked for at a time: more would only wait for each other, with their clients' deadlines running."""

_PARTS_AT_ONCE: Final = 32
"""Two a message: what sessions ask for in one round of the loop leaves together, before the process has to wait."""

_KINDS: Final = tuple(Kind)
_END_S: Final = 10.0
"""Seconds that the nursery may take to leave, of which the environments have three to close."""


class SessionProcess(asyncio.Protocol):
    """A process of sessions: takes a message of each of them at a time, gives their answers.

    Attributes:
        number: Its number.
        pid: Its process id.
        sessions: The sessions that live there.
        heard: When it last answered, as its sessions note it.
        lost: Why no message is taken any more; None while they are.
        ended: Holds its exit code once it has ended.
    """

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        self.pid = 0
        self.sessions: set[int] = set()
        self.heard = 0.0
        self.lost: str | None = None
        self.ended: asyncio.Future[int] = loop.create_future()
        self._loop = loop
        self._transport: asyncio.WriteTransport | None = None
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._outgoing: list[bytes] = []
        self._incoming = bytearray()
        self._expected = HEAD.size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one, and says it is none

    def ask(self, session: int, ask: Ask, data: bytes) -> asyncio.Future[Answer]:
        """Send a session's message; the future holds its answer, or the SessionLost that came instead.

        The caller sends no other one of this session before it is done.
        """
        future = self._loop.create_future()
        if self.lost is not None:
            future.set_exception(SessionLost(self.lost))
            return future
        self._pending[session] = future
        if self._transport is not None:  # otherwise the process is gone, and how it ended is about to be known
            self._write(HEAD.pack(len(data), session, ask), data)
        return future

    def has(self, session: int) -> bool:
        """Whether a message of this session is under way here."""
        return session in self._pending

    def _write(self, *parts: bytes) -> None:
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += parts
        if len(self._outgoing) >= _PARTS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None:
            self._transport.write(b"".join(outgoing))

    def data_received(self, data: bytes) -> None:
        """Some answers, or a part of one."""
        incoming = self._incoming
        incoming += data
        if len(incoming) < self._expected:
            return
        at, self._expected = 0, HEAD.size
        while len(incoming) - at >= HEAD.size:
            length, session, kind = HEAD.unpack_from(incoming, at)
            end = at + HEAD.size + length
            if length > MAX_ANSWER or kind >= len(_KINDS):  # environments have the descriptor too
                self.give_up("the session's process sent what is no answer")
                return
            if len(incoming) < end:
                self._expected = end - at
                break
            pending = self._pending.pop(session, None)
            if pending is not None and not pending.done():
                pending.set_result(Answer(_KINDS[kind], bytes(incoming[at + HEAD.size : end])))
            at = end
        del incoming[:at]

    def has_ended(self, exitcode: int) -> None:
        """The process is no more, whoever else has its socket: what it forked may."""
        if not self.ended.done():
            self.ended.set_result(exitcode)
        if self.lost is None:  # not at once: what it said before is being read in this round of the loop
            self._loop.call_soon(self.give_up, _how_it_ended(exitcode))

    def connection_lost(self, exc: Exception | None) -> None:
        """The process is gone, or about to be: its exit code says more, where it comes soon."""
        del exc
        self._transport = None
        if self.lost is not None:
            self._fail(self.lost)
        elif not self.ended.done():
            silent = self._loop.call_later(_EXIT_CODE_S, self.give_up, "the session's process is gone")
            self.ended.add_done_callback(lambda _: silent.cancel())

    def forget(self, session: int, why: str) -> None:
        """End one of the sessions; the others stay."""
        self.sessions.discard(session)
        pending = self._pending.pop(session, None)
        if pending is not None and not pending.done():
            pending.set_exception(SessionLost(why))
        if self._transport is not None:
            self._write(HEAD.pack(0, session, Ask.END))

    def give_up(self, why: str) -> None:
        """Take no message any more and close the socket, upon which the process closes its environments and leaves."""
        if self.lost is None:
            self.lost = why
        if self._transport is not None:
            self._transport.abort()
        self._fail(self.lost)

    def _fail(self, why: str) -> None:
        failed, self._pending = self._pending, {}
        for pending in failed.values():
            if not pending.done():
                pending.set_exception(SessionLost(why))


def _how_it_ended(exitcode: int) -> str:
    if exitcode >= 0:
        return f"the session's process left with exit code {exitcode}: its environment ended it"
    with suppress(ValueError):
        return f"the session's process was killed by {signal.Signals(-exitcode).name}"
    return f"the session's process was killed by signal {-exitcode}"


class Nursery:
    """Starts sessions' processes.

    Args:
        options: What every session begins with.
        start_timeout: Seconds until a session's process must exist.
        most: Processes at once that are not shared, those included that are about to leave.
        passed: Variables that their processes have besides, as ``starting.for_environments`` takes them.
    """

    def __init__(self, options: PlayOptions, start_timeout: float, most: int, passed: Collection[str]) -> None:
        self._passed = passed
        self._options = options
        self._start_timeout = start_timeout
        self._room = asyncio.Semaphore(most)
        self._stopped: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: dict[int, asyncio.Future[Forked]] = {}
        self._processes: dict[int, SessionProcess] = {}
        self._turns = asyncio.Semaphore(_FORKS_AT_ONCE)
        self._last = 0

    async def fork(self, *, shared: bool) -> SessionProcess:
        """Start a process.

        Args:
            shared: Whether it is for many sessions.

        Raises:
            HostStartFailed: It could not be started.
        """
        try:
            async with asyncio.timeout(self._start_timeout):  # waiting for others included
                if shared:
                    return await self._in_turn(shared=True)
                await self._room.acquire()
                try:
                    process = await self._in_turn(shared=False)
                except BaseException:
                    self._room.release()
                    raise
        except TimeoutError:
            raise HostStartFailed(f"no session could be started within {self._start_timeout:g} s") from None
        except OSError as error:
            raise HostStartFailed(f"no session could be started: {error}") from None
        process.ended.add_done_callback(lambda _: self._room.release())
        return process

    async def _in_turn(self, *, shared: bool) -> SessionProcess:
        async with self._turns:
            if self._stopped is not None:
                raise HostStartFailed(self._stopped)
            return await self._fork(shared=shared)

    async def _fork(self, *, shared: bool) -> SessionProcess:
        loop = asyncio.get_running_loop()
        self._last += 1
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                forked = await self._ask_for(Fork(self._last, shared), theirs, loop)
            process = SessionProcess(forked.process, loop)
            process.pid = forked.pid
            self._processes[forked.process] = process
            ours.setblocking(False)
            await loop.connect_accepted_socket(lambda: process, ours)
        except BaseException:
            ours.close()
            raise
        return process

    async def _ask_for(self, fork: Fork, theirs: socket.socket, loop: asyncio.AbstractEventLoop) -> Forked:
        control = self._running(loop)
        future: asyncio.Future[Forked] = loop.create_future()
        self._starting[fork.process] = future
        try:
            socket.send_fds(control, [write_note(fork)], [theirs.fileno()])
            forked = await future
        finally:
            self._starting.pop(fork.process, None)
        if forked.failure:
            raise HostStartFailed(f"no session could be started: {forked.failure}")
        return forked

    def kill(self, number: int) -> None:
        """End a process at once; nothing where it has ended."""
        if number in self._processes and self._control is not None:
            with suppress(OSError):  # the nursery is gone, and its sessions with it
                try:
                    self._control.send(write_note(Kill(number)))
                except BlockingIOError:  # it is about to fork many
                    asyncio.get_running_loop().call_later(_KILL_AGAIN_S, self.kill, number)

    def _running(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """The socket to the nursery, which is started if there is none."""
        if self._control is not None:
            return self._control
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and nothing of a request
                    [sys.executable, "-m", "vecserver.pools.sessions.nursery", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,  # what environments print must not mix with what the server says
                    pass_fds=(theirs.fileno(),),
                    env={**for_environments(self._passed), "PYGAME_HIDE_SUPPORT_PROMPT": "1"},
                    process_group=0,
                )
            except OSError as error:
                control.close()
                raise HostStartFailed(f"no process for sessions could be started: {error}") from None
        control.setblocking(False)
        control.send(msgspec.msgpack.encode(self._options))
        self._control, self._loop = control, loop
        loop.add_reader(control, self._on_note)
        return control

    def _on_note(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(MAX_NOTE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_end()
            return
        note = read_note(data)
        if isinstance(note, Forked):
            starting = self._starting.get(note.process)
            if starting is not None and not starting.done():
                starting.set_result(note)
        elif isinstance(note, Ended):
            process = self._processes.pop(note.process, None)
            if process is not None:
                process.has_ended(note.exitcode)

    def _on_end(self) -> None:
        """The nursery is gone, and its sessions with it. The next session starts another."""
        self._let_go()
        for starting in self._starting.values():
            if not starting.done():
                starting.set_exception(HostStartFailed("the process that starts sessions ended"))
        for process in self._processes.values():
            process.give_up("the process that sessions are started by ended, and this one with it")
            process.has_ended(-signal.SIGKILL)
        self._processes.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _let_go(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(control)
            control.close()

    def stop(self, why: str) -> None:
        """Have every process close its environments and leave, those too that are just being started."""
        self._stopped = why
        for starting in self._starting.values():
            if not starting.done():
                starting.set_exception(HostStartFailed(why))
        for process in self._processes.values():
            process.give_up(why)

    def close(self) -> None:
        """End the nursery, behind ``stop``; waits until it and its sessions are gone."""
        self._let_go()
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
