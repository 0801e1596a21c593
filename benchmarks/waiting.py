"""What it costs to wait and to wake: the primitives that doorbells could be made of, measured alone.

A wake is one process's write until the other one, which waited for it, goes on: both read the same clock. They take
turns, pinned to one core or to two, and either at once or after a pause in which the waiting core fell asleep.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import platform
import select
import signal
import socket
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns, sleep
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from vecserver.arena.doorbell import Doorbell, make_bell, spin_until

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COSTS", "Cost", "Wake", "costs", "markdown", "wakes"]

_LONGEST_S: Final = 0.25
"""Of one way to wait, in one placement."""
_ROUNDS: Final = 2000
_PAUSE_S: Final = 0.001
_SPIN_US: Final = 300
_FUTEX: Final = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1


class Channel(Protocol):
    """One way: a side signals, the other one waits."""

    def signal(self) -> None: ...

    def wait(self) -> None: ...


class Word:
    """A counter in shared memory that is watched; ``yields`` offers the core at every look."""

    def __init__(self, *, yields: bool) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self.word = memoryview(self._memory).cast("Q")
        self._yields = yields
        self._seen = 0

    def signal(self) -> None:
        self.word[0] += 1

    def wait(self) -> None:
        word, seen = self.word, self._seen
        if self._yields:
            while word[0] == seen:
                os.sched_yield()
        else:
            while word[0] == seen:
                pass
        self._seen += 1


class Eventfd:
    """The project's doorbell, blocked on."""

    def __init__(self, stack: ExitStack) -> None:
        self._bell = _bell(stack)

    def signal(self) -> None:
        self._bell.ring()

    def wait(self) -> None:
        self._bell.wait()


class WatchedEventfd(Eventfd):
    """The project's doorbell: its word is watched for a while, as workers do, and then it is blocked on."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__(stack)
        self._word = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        self._seen = 0

    def signal(self) -> None:
        self._word[0] += 1
        super().signal()

    def wait(self) -> None:
        spin_until(lambda: self._word[0] != self._seen, _SPIN_US)
        super().wait()
        self._seen += 1


class Pipe:
    def __init__(self, stack: ExitStack) -> None:
        self._reader, self._writer = os.pipe()
        for fd in (self._reader, self._writer):
            stack.callback(os.close, fd)

    def signal(self) -> None:
        os.write(self._writer, b"x")

    def wait(self) -> None:
        os.read(self._reader, 1)


class UnixSocket:
    def __init__(self, stack: ExitStack) -> None:
        self._ends = tuple(map(stack.enter_context, socket.socketpair()))

    def signal(self) -> None:
        self._ends[0].send(b"x")

    def wait(self) -> None:
        self._ends[1].recv(1)


class Semaphore:
    """A POSIX semaphore, as ``multiprocessing`` has it: a futex below, and no descriptor to wait for with others."""

    def __init__(self, _stack: ExitStack) -> None:
        self._semaphore = multiprocessing.get_context("fork").Semaphore(0)

    def signal(self) -> None:
        self._semaphore.release()

    def wait(self) -> None:
        self._semaphore.acquire()


class Futex:
    """The system call itself, through ctypes."""

    def __init__(self, _stack: ExitStack) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self._word = ctypes.c_uint32.from_buffer(self._memory)
        self._at = ctypes.c_void_p(ctypes.addressof(self._word))
        self._call = ctypes.CDLL(None).syscall
        self._seen = 0

    def signal(self) -> None:
        self._word.value += 1
        self._call(_FUTEX, self._at, _FUTEX_WAKE, 1, None, None, 0)

    def wait(self) -> None:
        while self._word.value == self._seen:
            self._call(_FUTEX, self._at, _FUTEX_WAIT, self._seen, None, None, 0)
        self._seen += 1


CHANNELS: Final[dict[str, Callable[[ExitStack], Channel]]] = {
    "eventfd, blocked": Eventfd,
    f"eventfd, watched {_SPIN_US} µs, then blocked": WatchedEventfd,
    "word, watched with sched_yield": lambda _stack: Word(yields=True),
    "word, watched without": lambda _stack: Word(yields=False),
    "semaphore": Semaphore,
    "pipe": Pipe,
    "Unix socket": UnixSocket,
    **({} if _FUTEX is None else {"futex through ctypes": Futex}),
}


@dataclass(frozen=True, slots=True)
class Wake:
    """How long one way to wake takes, in microseconds."""

    primitive: str
    cores: str
    pause_ms: float
    p50_us: float
    p90_us: float
    p99_us: float
    count: int


def wakes() -> list[Wake]:
    """Every primitive in every placement; two cores where this process may use two."""
    allowed = sorted(os.sched_getaffinity(0))
    placements = {"same": (allowed[0], allowed[0])}
    if len(allowed) > 1:
        placements["other"] = (allowed[0], allowed[1])
    try:
        return [
            _wake(primitive, make, cores, placement, pause_s)
            for cores, placement in placements.items()
            for pause_s in (0.0, _PAUSE_S)
            for primitive, make in CHANNELS.items()
        ]
    finally:
        os.sched_setaffinity(0, allowed)


def _wake(
    primitive: str, make: Callable[[ExitStack], Channel], cores: str, placement: tuple[int, int], pause_s: float
) -> Wake:
    memory = mmap.mmap(-1, 8 * _ROUNDS)
    woken = memoryview(memory).cast("q")
    rung = []
    with ExitStack() as stack:
        there, back = make(stack), make(stack)
        pid = os.fork()
        if pid == 0:
            try:
                _echo(there, back, woken, placement[1])
            except BaseException:  # noqa: BLE001 - said here, for nobody above is to see it
                traceback.print_exc()
            finally:
                os._exit(1)  # whatever it raised: what is below on the stack is the parent's
        stack.callback(os.waitpid, pid, 0)
        stack.callback(os.kill, pid, signal.SIGKILL)
        stack.callback(signal.signal, signal.SIGCHLD, signal.getsignal(signal.SIGCHLD))
        # or it would be waited for for ever. Not before the fork: what is raised in the functions that Python calls
        # around one is lost, and the lock that one of them was to release is held from then on
        signal.signal(signal.SIGCHLD, _other_ended)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            _other_ended(signal.SIGCHLD, None)
        os.sched_setaffinity(0, {placement[0]})
        end = perf_counter_ns() + int(_LONGEST_S * 1e9)
        while len(rung) < _ROUNDS and perf_counter_ns() < end:
            if pause_s:
                sleep(pause_s)
            rung.append(perf_counter_ns())
            there.signal()
            back.wait()
    us = (np.array(woken[: len(rung)]) - np.array(rung)) / 1e3
    p50, p90, p99 = np.percentile(us, [50, 90, 99])
    return Wake(primitive, cores, pause_s * 1e3, float(p50), float(p90), float(p99), len(rung))


def _other_ended(_number: int, _frame: object) -> None:
    raise ChildProcessError("the other process ended; what it says is above")


def _echo(there: Channel, back: Channel, woken: memoryview, core: int) -> None:
    """The other process: notes when it was woken, and answers; killed in the end."""
    os.sched_setaffinity(0, {core})
    at = 0
    while True:
        there.wait()
        woken[at] = perf_counter_ns()
        at = (at + 1) % _ROUNDS
        back.signal()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call costs in a process that waits for nobody, in microseconds."""

    call: str
    us: float


def _bell(stack: ExitStack) -> Doorbell:
    fd = make_bell()
    stack.callback(os.close, fd)
    return Doorbell(fd)


def _ring_and_take(stack: ExitStack) -> Callable[[], object]:
    bell = _bell(stack)
    return lambda: (bell.ring(), bell.take())


def _poll(stack: ExitStack) -> Callable[[], object]:
    poll = select.poll()
    poll.register(_bell(stack).fd, select.POLLIN)
    return lambda: poll.poll(0)


def _epoll(stack: ExitStack) -> Callable[[], object]:
    epoll = stack.enter_context(select.epoll())
    epoll.register(_bell(stack).fd, select.EPOLLIN)
    return lambda: epoll.poll(0)


def _to_itself(make: Callable[[ExitStack], Channel]) -> Callable[[ExitStack], Callable[[], object]]:
    def made(stack: ExitStack) -> Callable[[], object]:
        channel = make(stack)
        return lambda: (channel.signal(), channel.wait())

    return made


def _look(_stack: ExitStack) -> Callable[[], object]:
    word = Word(yields=False).word
    return lambda: word[0] == 1


COSTS: Final[dict[str, Callable[[ExitStack], Callable[[], object]]]] = {
    "bell: ring": lambda stack: _bell(stack).ring,
    "bell: ring and take": _ring_and_take,
    "bell: take in vain": lambda stack: _bell(stack).take,
    "poll of a bell, nothing there": _poll,
    "epoll of a bell, nothing there": _epoll,
    "look at a word": _look,
    "sched_yield, alone on a core": lambda _stack: os.sched_yield,
    "read the clock": lambda _stack: perf_counter_ns,
    "pipe: write and read": _to_itself(Pipe),
    "semaphore: release and acquire": _to_itself(Semaphore),
    **({} if _FUTEX is None else {"futex through ctypes: wake nobody": lambda stack: Futex(stack).signal}),
}


def costs() -> list[Cost]:
    """Each call's cost: the best of some runs, so that what interrupts one does not count."""
    with ExitStack() as stack:
        calls = {name: make(stack) for name, make in COSTS.items()}
        return [Cost(name, min(_run(call) for _ in range(7))) for name, call in calls.items()]


def _run(call: Callable[[], object], times: int = 5000) -> float:
    began = perf_counter_ns()
    for _ in range(times):
        call()
    return (perf_counter_ns() - began) / times / 1e3


def markdown(found_wakes: list[Wake], found_costs: list[Cost]) -> list[str]:
    """Both as tables."""
    lines = ["| wake, µs | cores | before it | p50 | p90 | p99 |", "| :-- | :-- | :-- | --: | --: | --: |"]
    for wake in found_wakes:
        before = f"{wake.pause_ms:g} ms of sleep" if wake.pause_ms else "another wake"
        figures = " | ".join(f"{us:.1f}" for us in (wake.p50_us, wake.p90_us, wake.p99_us))
        lines.append(f"| {wake.primitive} | {wake.cores} | {before} | {figures} |")
    lines += ["", "| call | µs |", "| :-- | --: |", *(f"| {cost.call} | {cost.us:.2f} |" for cost in found_costs)]
    return lines
