"""A comparison: pools, Gymnasium's own vector environments and the ceiling, measured in turns in one run."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import gymnasium
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from vecserver.cli.measure.ceiling import Ceiling
from vecserver.cli.measure.report import (
    ASYNC,
    CEILING,
    PoolFacts,
    Report,
    machine_facts,
    resident_bytes,
    subject_reports,
    versions,
)
from vecserver.cli.measure.subjects import VectorSubject, action_batches
from vecserver.cli.output import connect
from vecserver.engine.orphans import die_with_parent
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.errors import EnvCreationFailed
from vecserver_client import LocalServer, make_vec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from gymnasium.vector import VectorEnv

    from vecserver.cli.measure.subjects import Sample, Subject
    from vecserver.wire.messages import Stats
    from vecserver_client import RemoteVectorEnv

__all__ = ["Question", "compare", "take_turns"]

_Envs = TypeVar("_Envs", bound="VectorEnv[Any, Any, Any]")

_WARM_UP: Final = 0.5
"""Length of the round that is not counted, as a part of one that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to compare.

    Attributes:
        env_id: An environment that is registered here, and at the server.
        num_envs: Rows of every subject.
        transports: Each gets a pool of its own.
        seconds: Of each subject's turn in a round.
        rounds: Rounds that count.
        engine: The pools' engine.
        workers: The pools' workers; None for as many as pay.
        url: Address of a server; None to start a private one.
        peers: Whether Gymnasium's vector environments take part.
    """

    env_id: str
    num_envs: int
    transports: Sequence[str]
    seconds: float
    rounds: int
    engine: str = "auto"
    workers: int | None = None
    url: str | None = None
    peers: bool = True


def compare(question: Question, progress: Callable[[str], None]) -> Report:
    """Measure. Whatever was started is gone when this returns or raises, KeyboardInterrupt included.

    Args:
        question: What to compare.
        progress: Called with a sentence now and then.

    Raises:
        UnknownEnv: The environment is not registered here.
        EnvCreationFailed: It could not be made.
        VecServerError: What ``make_vec`` raises.
    """
    PoolSpec(
        env_id=question.env_id, num_envs=question.num_envs, engine=question.engine, workers=question.workers
    ).check(Caps())
    machine = machine_facts()  # the load before anything runs
    with ExitStack() as stack:
        field = _Field(question, stack)
        if question.peers:
            # before the pools: a process is not forked once a ZeroMQ context exists
            progress(f"starting AsyncVectorEnv and SyncVectorEnv of {question.num_envs} environments")
            field.add_peers()
        progress("starting the ceiling's processes and the pools")
        processes = field.add_ceiling()
        field.add_pools()
        samples = take_turns(field.subjects, question.rounds, question.seconds, progress)
        return Report(
            env_id=question.env_id,
            num_envs=question.num_envs,
            seconds=question.seconds,
            rounds=question.rounds,
            ceiling_processes=processes,
            subjects=subject_reports(samples, field.first_batch_s),
            pools=field.pool_facts(),
            server_rss_bytes=field.server_rss_bytes(),
            machine=machine,
            versions=versions(),
        )


def take_turns(
    subjects: Mapping[str, Subject], rounds: int, seconds: float, progress: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """Measure every subject once a round; each round begins with the next one.

    Returns:
        Subject → its samples, one a round, in the order of ``subjects``; the warm-up is left out.
    """
    names = list(subjects)
    progress("warming up")
    for subject in subjects.values():
        subject.measure(seconds * _WARM_UP)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for done in range(rounds):
        progress(f"round {done + 1} of {rounds}")
        first = done % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(subjects[name].measure(seconds))
    return samples


class _Field:
    """Starts the subjects of one comparison.

    Args:
        question: What to compare.
        stack: Ends what was started.
    """

    def __init__(self, question: Question, stack: ExitStack) -> None:
        self._question = question
        self._stack = stack
        self._batches = action_batches(self._action_space(), question.num_envs)
        self._server: LocalServer | None = None
        self._pools: dict[str, RemoteVectorEnv] = {}
        self.subjects: dict[str, Subject] = {}
        self.first_batch_s: dict[str, float] = {}

    def _action_space(self) -> gymnasium.Space[Any]:
        try:
            env = gymnasium.make(self._question.env_id)
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            raise EnvCreationFailed(f"{self._question.env_id} could not be made here: {error}") from None
        env.close()
        return env.action_space

    def add_peers(self) -> None:
        """Add Gymnasium's own."""
        makers = [_Maker(self._question.env_id)] * self._question.num_envs
        self._add_vector(ASYNC, lambda: AsyncVectorEnv(makers))
        self._add_vector("SyncVectorEnv", lambda: SyncVectorEnv(makers))

    def add_ceiling(self) -> int:
        """Add the ceiling, before all others in the report; returns its number of processes."""
        began = perf_counter()
        ceiling = self._stack.enter_context(Ceiling(self._question.env_id, self._question.num_envs))
        self.first_batch_s[CEILING] = perf_counter() - began
        self.subjects = {CEILING: ceiling, **self.subjects}
        return len(ceiling.pids)

    def add_pools(self) -> None:
        """Add a pool a transport, all at one server."""
        url = self._question.url
        if url is None:
            self._server = LocalServer()
            self._stack.callback(self._server.close)
            url = self._server.url
        self._url = url
        for transport in dict.fromkeys(self._question.transports):
            name = f"vecserver {transport}"
            make = partial(
                make_vec,
                self._question.env_id,
                self._question.num_envs,
                url=url,
                transport=transport,
                engine=self._question.engine,
                workers=self._question.workers,
            )
            self._pools[name] = self._add_vector(name, make)

    def _add_vector(self, name: str, make: Callable[[], _Envs]) -> _Envs:
        began = perf_counter()
        envs = make()
        self._stack.push(_closer(envs))
        self.subjects[name] = VectorSubject(envs, self._batches)
        self.first_batch_s[name] = perf_counter() - began
        return envs

    def pool_facts(self) -> list[PoolFacts]:
        """What the server and the pools themselves say of them."""
        with connect(self._url) as client:
            return [self._facts(name, envs.stats(), client.get_pool(envs.pool)) for name, envs in self._pools.items()]

    @staticmethod
    def _facts(name: str, stats: Stats, view: dict[str, Any]) -> PoolFacts:
        return PoolFacts(
            subject=name,
            engine=view["engine"],
            workers=view["workers"],
            creation_s=view["creation_s"],
            arena_bytes=stats.arena_bytes,
            host_rss_bytes=stats.host_rss_bytes,
            worker_rss_bytes=stats.rss_bytes,
        )

    def server_rss_bytes(self) -> int | None:
        """Resident memory of the private server."""
        return None if self._server is None else resident_bytes(self._server.pid)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes one environment. In a process of ``AsyncVectorEnv`` it sees to a quiet end first.

    By itself each of these processes prints a traceback at Ctrl-C, and another when its parent is gone.
    """

    env_id: str

    def __call__(self) -> gymnasium.Env[Any, Any]:
        parent = multiprocessing.parent_process()
        if parent is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            die_with_parent(parent.pid or 0)
        return gymnasium.make(self.env_id)


def _closer(envs: VectorEnv[Any, Any, Any]) -> Callable[..., None]:
    def close(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        envs.close(terminate=kind is not None)  # interrupted: the batch that is pending is not waited for

    return close
