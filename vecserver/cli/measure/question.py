"""What to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vecserver.pools.spec import PoolSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CHOICES", "TRANSPORTS", "PoolChoice", "Question"]

TRANSPORTS: Final = ("shm", "tcp", "ipc")
"""What is measured unasked."""
CHOICES: Final = (*TRANSPORTS, "ws")
"""What can be."""


@dataclass(frozen=True, slots=True)
class PoolChoice:
    """One pool of a comparison, as it was asked for.

    Attributes:
        name: What it is called in the report: its transport, and what else tells it from the others.
        engine: As ``make_vec``'s.
        workers: Likewise; None for as many as pay.
        parts: Into how many the pool is split, to be stepped in turns.
    """

    name: str
    transport: str
    engine: str
    workers: int | None
    parts: int

    def spec(self, env_id: str, num_envs: int) -> PoolSpec:
        """The pool as a server is asked for it."""
        return PoolSpec(env_id=env_id, num_envs=num_envs, engine=self.engine, workers=self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One run: everything in it is measured in turns.

    Attributes:
        env_id: An environment that is registered here, and at the server.
        num_envs: Rows of every subject.
        seconds: Of each subject's turn in a round.
        rounds: Rounds that count.
        transports: Each gets a pool of its own, with each engine and each number of workers.
        engines: The pools' engines.
        workers: The pools' workers; None for as many as pay.
        parts: Into how many parts a pool is split that are stepped in turns; 1 for none.
        url: Address of a server; None to start a private one.
        peers: Name → interpreter of the peers that take part.
        missing_peers: Names of those that are not installed, for the report.
        rate: Environment steps a second that are due, rows that are only reset among them; None to step as fast as
            goes.
        where: Whether to find out where a batch's time goes.
    """

    env_id: str
    num_envs: int
    seconds: float
    rounds: int
    transports: Sequence[str] = TRANSPORTS
    engines: Sequence[str] = ("auto",)
    workers: Sequence[int | None] = (None,)
    parts: Sequence[int] = (1,)
    url: str | None = None
    peers: Mapping[str, str] = field(default_factory=dict)
    missing_peers: Sequence[str] = ()
    rate: float | None = None
    where: bool = False

    @property
    def interval(self) -> float | None:
        """Seconds between two batches at the fixed rate."""
        return None if self.rate is None else self.num_envs / self.rate

    def pools(self) -> list[PoolChoice]:
        """Every combination once."""
        return [
            PoolChoice(self._name(transport, engine, workers, parts), transport, engine, workers, parts)
            for transport in dict.fromkeys(self.transports)
            for engine in dict.fromkeys(self.engines)
            for workers in dict.fromkeys(self.workers)
            for parts in dict.fromkeys(self.parts)
        ]

    def _name(self, transport: str, engine: str, workers: int | None, parts: int) -> str:
        words = ["vecserver", transport]
        if len(set(self.engines)) > 1:
            words.append(engine)
        if len(set(self.workers)) > 1:
            words.append("auto" if workers is None else f"w{workers}")
        if parts > 1:
            words.append(f"÷{parts}")
        return " ".join(words)
