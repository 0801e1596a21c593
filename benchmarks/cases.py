"""The comparisons that are kept, and what is aimed at in each."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vecserver.cli.measure.peers import NATIVE
from vecserver.cli.measure.report import CEILING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vecserver.cli.measure.report import Report

__all__ = ["CASES", "Aim", "Case", "reached"]


@dataclass(frozen=True, slots=True)
class Aim:
    """A pool's rate beside another subject's: how many times as high it is to be."""

    transport: str
    beside: str
    at_least: float


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison.

    Attributes:
        engine: The pools' engine.
        peers: Those of Gymnasium's own that take part.
        every_peer: Whether all others that are found do too.
        where: Whether to find out where a batch's time goes.
    """

    env_id: str
    num_envs: int
    transports: tuple[str, ...]
    aims: tuple[Aim, ...] = field(default=())
    parts: tuple[int, ...] = (1,)
    engine: str = "auto"
    peers: tuple[str, ...] = ("async", "sync")
    every_peer: bool = False
    where: bool = False


CASES: Final = (
    Case(
        "CartPole-v1",
        64,
        ("shm", "tcp", "ipc"),
        (
            Aim("shm", CEILING, 0.80),
            Aim("tcp", CEILING, 0.50),
            Aim("shm", "AsyncVectorEnv", 20),
            Aim("tcp", "AsyncVectorEnv", 12),
            Aim("shm", "PufferLib", 1.3),
            Aim("tcp", "RLMesh", 5),
            Aim("tcp", "OpenEnv", 30),
        ),
        every_peer=True,
        where=True,
    ),
    Case("CartPole-v1", 256, ("shm", "tcp"), (Aim("shm", CEILING, 0.92), Aim("tcp", CEILING, 0.80)), where=True),
    Case("CartPole-v1", 128, ("tcp",), (Aim("tcp ÷2", CEILING, 0.75),), parts=(1, 2)),
    Case("CartPole-v1", 1024, ("shm",), (Aim("shm", NATIVE, 0.80),), engine="native", peers=("native",)),
    Case("LunarLander-v3", 64, ("shm", "tcp"), (Aim("shm", CEILING, 0.90),)),
    Case("HalfCheetah-v5", 64, ("shm", "tcp"), (Aim("shm", CEILING, 0.90), Aim("tcp", CEILING, 0.80)), where=True),
    Case("ALE/Pong-v5", 32, ("shm",), (Aim("shm", CEILING, 0.90),)),
)
"""Light and heavy environments, in batches of the sizes that trainers use. The last three need extras."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What became of an aim: the median of each round's ratio, the lowest and the highest; None where it has none."""

    case: str
    transport: str
    beside: str
    aim: float
    median: float | None = None
    lowest: float | None = None
    highest: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the aim; None where one of the two was not measured."""
        return None if self.median is None else self.median >= self.aim


def reached(case: Case, report: Report | None) -> Iterator[Reached]:
    """Every aim of a case.

    Args:
        case: The case.
        report: What was measured; None where nothing could be.
    """
    subjects = () if report is None else report.subjects
    rates: Mapping[str, list[float]] = {subject.name: subject.rates for subject in subjects}
    name = f"{case.env_id} × {case.num_envs}"
    for aim in case.aims:
        own, other = rates.get(f"vecserver {aim.transport}", []), rates.get(aim.beside, [])
        # a subject that was left out has no rounds, and one that made no step in a round has no ratio of it
        ratios = [a / b for a, b in zip(own, other, strict=False) if b]
        figures = (statistics.median(ratios), min(ratios), max(ratios)) if ratios else ()
        yield Reached(name, aim.transport, aim.beside, aim.at_least, *figures)
