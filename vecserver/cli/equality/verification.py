"""A verification of one environment: pools of every combination, beside the expected side, in each autoreset mode."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from vecserver.cli.equality.fresh import FreshRun
from vecserver.cli.equality.local import local_envs, sample_actions, script_for, try_out
from vecserver.cli.equality.report import EnvReport, ModeReport, Outcome, Result
from vecserver.cli.equality.side_by_side import Contestant, compare
from vecserver.wire.errors import ServerUnreachable, TransportUnavailable, VecServerError
from vecserver.wire.side import SideLeaves
from vecserver_client import make_vec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vecserver.cli.equality.local import Question
    from vecserver_client import RemoteVectorEnv

__all__ = ["Combinations", "Watcher", "verify"]

_WORKERS: Final = 2
"""Of a pool that may have several: a batch is then put together out of shards."""


_EXPECTED: Final = {False: "a SyncVectorEnv", True: "its vector environment"}


class Watcher(Protocol):
    """Is told how far a verification is."""

    def begin(self, what: str, steps: int) -> None:
        """A run of so many steps begins."""

    def advance(self, step: int) -> None:
        """A step of it is done."""

    def say(self, line: str) -> None:
        """Something is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combinations:
    """What an environment is verified over.

    Attributes:
        url: Address of the server.
        tolerates_unreachable: Whether a transport that does not reach the server is left out, or a failure.
    """

    engines: Sequence[str]
    transports: Sequence[str]
    autoreset_modes: Sequence[str]
    url: str
    tolerates_unreachable: bool


def verify(question: Question, over: Combinations, watcher: Watcher) -> EnvReport:
    """Verify one environment. Whatever was started is gone when this returns or raises, KeyboardInterrupt included."""
    with warnings.catch_warnings(action="ignore"):  # deprecated versions of environments, infos that cannot travel
        if reason := try_out(question):
            report = EnvReport(question.env_id, Result.SKIPPED, reason)
        else:
            report = _verify(question, over, watcher)
    watcher.say(f"{report.env_id}: {report.result}{f' ({report.reason})' if report.reason else ''}")
    return report


def _verify(question: Question, over: Combinations, watcher: Watcher) -> EnvReport:
    actions = sample_actions(question)
    modes = []
    for autoreset_mode in over.autoreset_modes:
        if question.native and not _has_mode(question, autoreset_mode):
            continue
        watcher.begin(f"{question.env_id} {autoreset_mode}", question.steps)
        modes.append(_verify_mode(question, over, autoreset_mode, actions, watcher))
        if modes[-1].unsteady is not None or modes[-1].reason:
            break
    if not modes:
        named = ", ".join(over.autoreset_modes)
        return EnvReport(question.env_id, Result.SKIPPED, f"its vector environment has no autoreset mode {named}")
    return EnvReport.of(question.env_id, modes)


def _has_mode(question: Question, autoreset_mode: str) -> bool:
    try:
        local_envs(question, autoreset_mode).close()
    except Exception:  # noqa: BLE001 - it was made in another one, so it is this that it does not take
        return False
    return True


def _verify_mode(
    question: Question, over: Combinations, autoreset_mode: str, actions: Sequence[Any], watcher: Watcher
) -> ModeReport:
    with ExitStack() as stack:
        try:
            fresh = stack.enter_context(FreshRun(question, autoreset_mode, actions))
            local = local_envs(question, autoreset_mode)
        except Exception as error:  # noqa: BLE001 - actions that cannot travel, rows whose spaces differ, any environment
            return ModeReport(
                autoreset_mode, reason=f"making {_EXPECTED[question.native]}: {type(error).__name__}: {error}"
            )
        stack.callback(local.close)
        contestants, missing = [], []
        has_side = bool(SideLeaves(local.single_action_space))
        for engine in over.engines:
            for transport in over.transports:
                try:
                    envs = _open(question, over.url, autoreset_mode, engine, transport)
                except ServerUnreachable:
                    raise  # nothing can be said of any pool
                except VecServerError as error:
                    # actions without a fixed size go through the host: such a pool has no arena to lend
                    tolerated = over.tolerates_unreachable or (transport == "shm" and has_side)
                    missing.append(_missing(error, engine, transport, tolerated=tolerated))
                    continue
                stack.callback(partial(envs.close, terminate=True))
                contestants.append(Contestant(engine, transport, envs, local.single_observation_space))
        script = script_for(question, actions, autoreset_mode)
        report = compare(autoreset_mode, local, script, fresh.recordings(), contestants, watcher.advance)
    report.outcomes += missing
    return report


def _open(question: Question, url: str, autoreset_mode: str, engine: str, transport: str) -> RemoteVectorEnv:
    return make_vec(
        question.env_id,
        question.num_envs,
        url=url,
        transport=transport,
        engine=engine,
        workers=min(_WORKERS, question.num_envs) if engine == "envs" else None,
        autoreset_mode=autoreset_mode,
        **question.env_kwargs,
    )


def _missing(error: VecServerError, engine: str, transport: str, *, tolerated: bool) -> Outcome:
    unavailable = tolerated and isinstance(error, TransportUnavailable)
    result = Result.UNAVAILABLE if unavailable else Result.FAILED
    return Outcome(engine, transport, result, reason=f"making the pool: {type(error).__name__}: {error}")
