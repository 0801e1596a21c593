"""A comparison: pools, their peers and the ceiling, measured in turns in one run."""

from __future__ import annotations

from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import gymnasium

from vecserver.cli.measure.ceiling import Ceiling
from vecserver.cli.measure.peers import PeerFailed, PeerSubject, title_of
from vecserver.cli.measure.report import (
    CEILING,
    LeftOut,
    Measured,
    PoolFacts,
    Report,
    machine_facts,
    resident_bytes,
    subject_reports,
    versions,
)
from vecserver.cli.measure.subjects import SEED, PartsSubject, VectorSubject, action_batches
from vecserver.cli.measure.where import where_time_goes
from vecserver.cli.output import connect
from vecserver.engine.make import EnvMaker
from vecserver.pools.spec import Caps
from vecserver.wire.errors import EnvCreationFailed, VecServerError
from vecserver_client import LocalServer, make_vec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from gymnasium.vector import VectorEnv

    from vecserver.cli.measure.question import PoolChoice, Question
    from vecserver.cli.measure.subjects import Sample, Subject
    from vecserver.wire.messages import Stats
    from vecserver_client import RemoteVectorEnv

__all__ = ["compare", "take_turns"]

_WARM_UP: Final = 0.5
"""Length of the round that is not counted, as a part of one that is."""
_ONE_BATCH_S: Final = 1e-9
"""A turn that is over when its first batch is."""


def compare(question: Question, progress: Callable[[str], None]) -> Report:
    """Measure. Whatever was started is gone when this returns or raises, KeyboardInterrupt included.

    Args:
        question: What to compare.
        progress: Called with a sentence now and then.

    Raises:
        UnknownEnv: The environment is not registered here.
        EnvCreationFailed: It could not be made.
        VecServerError: What ``make_vec`` raises, where none of the pools can be made.
    """
    left_out: list[LeftOut] = []
    choices = _possible(question, left_out)
    machine = machine_facts()  # the load before anything runs
    with ExitStack() as stack:
        field = _Field(question, stack, left_out)
        field.add_peers(progress)
        progress("starting the ceiling's processes and the pools")
        ceiling = field.add_ceiling()
        field.add_pools(choices)
        samples = take_turns(field.subjects, question.rounds, question.seconds, progress, left_out)
        pools = field.pool_facts()
        where = []
        if question.where:
            whole = [choice for choice in choices if choice.name in samples and choice.parts == 1]
            where = where_time_goes(question, whole, ceiling, progress, left_out)
        return Report(
            env_id=question.env_id,
            num_envs=question.num_envs,
            seconds=question.seconds,
            rounds=question.rounds,
            rate=question.rate,
            ceiling_processes=len(ceiling.pids),
            subjects=subject_reports(samples, field.measured),
            pools=pools,
            where=where,
            left_out=left_out,
            not_installed=list(question.missing_peers),
            server_rss_bytes=field.server_rss_bytes(),
            machine=machine,
            versions=versions(),
        )


def _possible(question: Question, left_out: list[LeftOut]) -> list[PoolChoice]:
    """The pools that may be asked for. A server that ran before knows its own caps, and says itself what it refuses.

    Raises:
        VecServerError: None may.
    """
    if question.url is not None:
        return question.pools()
    choices, refused = [], []
    for choice in question.pools():
        try:
            choice.spec(question.env_id, question.num_envs).check(Caps())
            choices.append(choice)
        except VecServerError as error:
            refused.append(error)
            left_out.append(LeftOut(choice.name, error.message))
    if not choices:
        raise refused[0]
    return choices


def take_turns(
    subjects: Mapping[str, Subject],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
    left_out: list[LeftOut],
) -> dict[str, list[Sample]]:
    """Measure every subject once a round; each round begins with the next one.

    Args:
        subjects: What to measure, by name.
        rounds: Rounds that count.
        seconds: Of each subject's turn.
        progress: Called with a sentence now and then.
        left_out: Told of peers that fail; they take no further turn.

    Returns:
        Subject → its samples, one a round, in the order of ``subjects``; the warm-up is left out.
    """
    names = list(subjects)
    samples: dict[str, list[Sample]] = {name: [] for name in names}

    def measure(name: str, seconds: float) -> None:
        if name not in samples:
            return
        try:
            samples[name].append(subjects[name].measure(seconds))
        except PeerFailed as error:
            del samples[name]
            left_out.append(LeftOut(name, str(error)))

    progress("warming up")
    for name in names:
        measure(name, seconds * _WARM_UP)
    for each in samples.values():
        each.clear()
    for done in range(rounds):
        progress(f"round {done + 1} of {rounds}")
        first = done % len(names)
        for name in names[first:] + names[:first]:
            measure(name, seconds)
    return samples


class _Field:
    """Starts the subjects of one comparison.

    Args:
        question: What to compare.
        stack: Ends what was started.
        left_out: Told what could not be started, and why.
    """

    def __init__(self, question: Question, stack: ExitStack, left_out: list[LeftOut]) -> None:
        self._question = question
        self._stack = stack
        self._left_out = left_out
        self._batches = action_batches(self._action_space(), question.num_envs)
        self._server: LocalServer | None = None
        self._pools: dict[str, tuple[PoolChoice, RemoteVectorEnv]] = {}
        self._first_batch_s: dict[str, float] = {}
        self.subjects: dict[str, Subject] = {}
        self.measured: dict[str, Measured] = {}

    def _action_space(self) -> gymnasium.Space[Any]:
        try:
            env = EnvMaker(self._question.env_id, {}, None)()
        except (gymnasium.error.Error, ModuleNotFoundError) as error:
            raise EnvCreationFailed(f"{self._question.env_id} could not be made here: {error}") from None
        env.close()
        return env.action_space

    def add_peers(self, progress: Callable[[str], None]) -> None:
        """Add the peers, one behind the other: each starts on a quiet machine."""
        question = self._question
        for name, interpreter in question.peers.items():
            title = title_of(name)
            progress(f"starting {title} of {question.num_envs} environments")
            try:
                peer = PeerSubject(name, interpreter, question.env_id, question.num_envs, question.interval)
            except PeerFailed as error:
                self._left_out.append(LeftOut(title, str(error)))
                continue
            self.subjects[title] = self._stack.enter_context(peer)
            self.measured[title] = Measured("peer", peer.setting)

    def add_ceiling(self) -> Ceiling:
        """Add the ceiling, before all others in the report; at a fixed rate nothing is compared with it."""
        ceiling = self._stack.enter_context(Ceiling(self._question.env_id, self._question.num_envs))
        if self._question.rate is None:
            self.measured[CEILING] = Measured("ceiling", f"{len(ceiling.pids)} processes")
            self.subjects = {CEILING: ceiling, **self.subjects}
        return ceiling

    def add_pools(self, choices: list[PoolChoice]) -> None:
        """Add the pools, all at one server.

        Raises:
            VecServerError: None could be made.
        """
        url = self._question.url
        if url is None:
            self._server = LocalServer()
            self._stack.callback(self._server.close)
            url = self._server.url
        self._url = url
        failed = []
        for choice in choices:
            try:
                self._add_pool(choice)
            except VecServerError as error:
                failed.append(error)
                self._left_out.append(LeftOut(choice.name, error.message))
        if not self._pools:
            raise failed[0]

    def _add_pool(self, choice: PoolChoice) -> None:
        question = self._question
        began = perf_counter()
        envs = make_vec(
            question.env_id,
            question.num_envs,
            url=self._url,
            transport=choice.transport,
            engine=choice.engine,
            workers=choice.workers,
        )
        self._stack.push(_closer(envs))
        if choice.parts == 1:
            self.subjects[choice.name] = VectorSubject(envs, self._batches, question.interval)
        else:
            envs.reset(seed=SEED)
            self.subjects[choice.name] = PartsSubject(envs.split(choice.parts), self._batches)
        self.subjects[choice.name].measure(_ONE_BATCH_S)
        self._pools[choice.name] = choice, envs
        self._first_batch_s[choice.name] = perf_counter() - began
        self.measured[choice.name] = Measured("pool")

    def pool_facts(self) -> list[PoolFacts]:
        """What the server and the pools themselves say of them; they are whole again afterwards."""
        for _, envs in self._pools.values():
            envs.join()
        with connect(self._url) as client:
            return [
                self._facts(choice, envs.stats(), client.get_pool(envs.pool)) for choice, envs in self._pools.values()
            ]

    def _facts(self, choice: PoolChoice, stats: Stats, view: dict[str, Any]) -> PoolFacts:
        return PoolFacts(
            subject=choice.name,
            transport=choice.transport,
            engine=view["engine"],
            workers=view["workers"],
            creation_s=view["creation_s"],
            first_batch_s=self._first_batch_s[choice.name],
            arena_bytes=stats.arena_bytes,
            host_rss_bytes=stats.host_rss_bytes,
            worker_rss_bytes=stats.rss_bytes,
        )

    def server_rss_bytes(self) -> int | None:
        """Resident memory of the private server."""
        return None if self._server is None else resident_bytes(self._server.pid)


def _closer(envs: VectorEnv[Any, Any, Any]) -> Callable[..., None]:
    def close(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        envs.close(terminate=kind is not None)  # interrupted: the batch that is pending is not waited for

    return close
