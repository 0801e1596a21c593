"""The sessions of one server: opened up to a limit, given a place, asked, ended when they are idle or stuck."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vecserver.control.openenv.nursery import Nursery
from vecserver.pools.sessions.answers import Ask, Kind
from vecserver.pools.sessions.play import PlayOptions
from vecserver.wire.errors import CapExceeded, PoolStopping, SessionLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.control.openenv.nursery import SessionProcess
    from vecserver.pools.sessions.answers import Answer

__all__ = ["Session", "SessionCounts", "SessionOptions", "Sessions"]

_SWEEP_S: Final = 1.0
"""How often idle and stuck sessions are looked for."""

_SPARED_S: Final = 60.0
"""Seconds for which a session that gives way is left alone all the same: its client may only be thinking."""

_STOPPING: Final = "the server is shutting down"

_CLOSE_S: Final = 5.0
"""Seconds that an environment may take to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How sessions are served.

    Attributes:
        play: What each begins with.
        limit: Sessions at once.
        idle_timeout: Seconds without a message after which a session is ended.
        step_timeout: Seconds that a message may take, the making of an environment included.
        start_timeout: Seconds until a session's process must exist.
        passed: Variables that their processes have besides, as ``starting.for_environments`` takes them.
    """

    play: PlayOptions = field(default_factory=PlayOptions)
    limit: int = 512
    idle_timeout: float = 1800.0
    step_timeout: float = 60.0
    start_timeout: float = 60.0
    passed: tuple[str, ...] = ("*",)


@dataclass(slots=True)
class SessionCounts:
    """What became of the sessions of a server.

    Attributes:
        started: Opened.
        refused: Not opened, for there were as many as there may be.
        ended: By cause: ``closed`` by its client, ``lost`` with its process, ``idle``, ``stuck``, or ``shutdown``.
    """

    started: int = 0
    refused: int = 0
    ended: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("closed", "lost", "idle", "stuck", "shutdown"), 0)
    )


class Session:
    """One client's environment, wherever it lives.

    Attributes:
        process: The process that it lives in.
        on_lost: Called once, with the reason, when the session was ended while nobody asked it anything.
        since: When the message under way was sent, or the last one answered.
        asked: Whether a message is under way.
        cause: Why it ends, where it is not lost: see ``SessionCounts``.
        gives_way: Whether it may be ended for the sake of a new one, where there are as many as there may be and it has
            been silent for long.
        closed: Why it is over; None while it is not.
    """

    def __init__(self, number: int, process: SessionProcess, sessions: Sessions) -> None:
        self.number = number
        self.process = process
        self.gives_way = False
        self.closed: str | None = None
        self.on_lost: Callable[[str], None] | None = None
        self.since = sessions.clock()
        self.asked = False
        self.cause = "closed"
        self._sessions = sessions
        self._turn = asyncio.Lock()

    async def ask(self, ask: Ask, data: bytes) -> Answer:
        """Send a message and wait for its answer; messages of several callers wait for each other.

        Raises:
            SessionLost: The session has ended; says how.
            HostStartFailed: It needs a process of its own, and there is none to be had.
        """
        async with self._turn:
            if self.closed is not None:  # while it waited for its turn
                raise SessionLost(self.closed)
            self.since, self.asked = self._sessions.clock(), True
            try:
                answer = await self.process.ask(self.number, ask, data)
                return await self._sessions.move(self, ask, data) if answer.kind is Kind.ELSEWHERE else answer
            finally:
                self.since, self.asked = self._sessions.clock(), False
                self.process.heard = self.since


class Sessions:
    """All sessions of a server. Belongs to the event loop's thread.

    Sessions begin in one of a few processes, which they share with others. Only environments that cannot harm their
    neighbours stay there; for any other the session moves to a process of its own.

    Args:
        options: How they are served.
        clock: Seconds, never going back.
    """

    def __init__(self, options: SessionOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.clock = clock
        self.counts = SessionCounts()
        self._nursery = Nursery(options.play, options.start_timeout, options.limit, options.passed)
        self._open: dict[int, Session] = {}
        self._opening = 0
        self._last = 0
        self._shared: list[SessionProcess] = []
        self._sharing = asyncio.Lock()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._open) + self._opening

    async def open(self) -> Session:
        """Start a session.

        Raises:
            CapExceeded: There are as many as there may be.
            HostStartFailed: Its process could not be started.
            PoolStopping: The server is shutting down.
        """
        if self._closed:
            raise PoolStopping(_STOPPING)
        limit = self.options.limit
        if len(self) >= limit and not self._make_room():
            self.counts.refused += 1
            raise CapExceeded(
                f"there are {len(self)} sessions, and this server has room for {limit}: close one, or start it with a "
                "higher --openenv-sessions",
                cap="openenv_sessions",
                limit=limit,
                asked=len(self) + 1,
            )
        self._opening += 1
        try:
            process = await self._emptiest()
        finally:
            self._opening -= 1
        if self._closed:
            raise PoolStopping(_STOPPING)
        self._last += 1
        session = self._open[self._last] = Session(self._last, process, self)
        process.sessions.add(session.number)
        self.counts.started += 1
        if self._sweeper is None:
            self._sweep_later()
        return session

    def _make_room(self) -> bool:
        """End the session that has been silent for longest, of those that give way; returns whether there was one."""
        long_ago = self.clock() - _SPARED_S
        silent = [each for each in self._open.values() if each.gives_way and not each.asked and each.since < long_ago]
        if not silent:
            return False
        silentest = min(silent, key=lambda each: each.since)
        silentest.cause = "idle"
        self._end(silentest, "the session was idle, and others needed its place")
        return True

    async def _emptiest(self) -> SessionProcess:
        async with self._sharing:
            self._shared = [process for process in self._shared if process.lost is None]
            if len(self._shared) < min(len(os.sched_getaffinity(0)), len(self)):
                self._shared.append(await self._nursery.fork(shared=True))
            return min(self._shared, key=lambda process: len(process.sessions))

    async def move(self, session: Session, ask: Ask, data: bytes) -> Answer:
        """Send a session's message to a process of its own, and let the session live there if it is well received."""
        before = session.process
        own = await self._nursery.fork(shared=False)
        if session.closed is not None:  # meanwhile: nobody else would ever end this process
            self._leave(own, session.closed)
            raise SessionLost(session.closed)
        own.sessions.add(session.number)
        session.process, session.since = own, self.clock()
        try:
            answer = await own.ask(session.number, ask, data)
        except BaseException:  # it crashed there, or nobody waits any more: the session is over
            before.forget(session.number, "the session moved")
            raise
        if answer.kind is Kind.ERROR and before.lost is None:
            session.process = before
            self._leave(own, "nothing could be played there")
        else:
            before.forget(session.number, "the session moved")
        return answer

    def close_session(self, session: Session, why: str = "the session was closed") -> None:
        """End a session; its environment has a moment to close. May be called again."""
        if self._open.pop(session.number, None) is None:
            return
        session.closed = why
        process = session.process
        lost = process.lost is not None and session.cause == "closed"
        self.counts.ended["lost" if lost else session.cause] += 1
        process.forget(session.number, why)
        if process not in self._shared:
            self._leave(process, why)

    def _leave(self, process: SessionProcess, why: str) -> None:
        process.give_up(why)
        if not process.ended.done():
            late = asyncio.get_running_loop().call_later(_CLOSE_S, self._nursery.kill, process.number)
            process.ended.add_done_callback(lambda _: late.cancel())

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep_again)

    def _sweep_again(self) -> None:
        self._sweeper = None
        self.sweep()
        if self._open:
            self._sweep_later()

    def sweep(self) -> None:
        """End the sessions that are idle or stuck; forget those that ended by themselves."""
        now = self.clock()
        for session in list(self._open.values()):
            waited = now - session.since
            if session.process.lost is not None:
                self._end(session, session.process.lost)
            elif session.asked:
                # A process that answers others is not stuck, only slow, and one without the message is not to blame:
                # the session waits for a process of its own, which has a time limit of its own.
                process = session.process
                if process.has(session.number) and now - max(session.since, process.heard) > self.options.step_timeout:
                    self._end_stuck(session)
            elif waited > self.options.idle_timeout:
                idle = self.options.idle_timeout
                session.cause = "idle"
                self._end(session, f"the session was idle for {idle:g} s and was ended: see --openenv-idle-timeout")

    def _end_stuck(self, session: Session) -> None:
        session.cause = "stuck"
        self._nursery.kill(session.process.number)
        session.process.give_up(
            f"the environment took longer than {self.options.step_timeout:g} s and was killed: see "
            "--openenv-step-timeout"
        )

    def _end(self, session: Session, why: str) -> None:
        asked = session.asked
        self.close_session(session, why)
        if session.on_lost is not None and not asked:
            session.on_lost(why)

    def stop(self) -> None:
        """End all sessions, and refuse new ones; their processes leave by themselves, with ``close`` at the latest."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for session in list(self._open.values()):
            session.cause = "shutdown"
            self._end(session, _STOPPING)
        self._nursery.stop(_STOPPING)

    def close(self) -> None:
        """Wait until all processes are gone. Called behind ``stop``, from any thread; may be called again."""
        self._nursery.close()
