"""What a verification found, as plain values, and as the lines of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

from vecserver.cli.equality.script import FIELDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

__all__ = ["Difference", "EnvReport", "ExitStatus", "ModeReport", "Outcome", "Result", "exit_status", "lines"]

_SHOWN_DIGITS: Final = 8
_HEADINGS: Final = ("observ.", "rewards", "termin.", "trunc.", "infos")


class Result(StrEnum):
    """How a comparison ended."""

    EQUAL = "equal"
    DIFFERS = "differs"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    UNSTEADY = "not deterministic"
    RAISES = "raises"
    SKIPPED = "skipped"


class ExitStatus(IntEnum):
    """Exit statuses of the command."""

    EQUAL = 0
    DIFFERS = 1
    NOT_VERIFIED = 2
    UNSTEADY = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which a result is not the expected one.

    Attributes:
        step: Number of the step, or of the step before the reset; 0 for the first reset.
        operation: What was done, in words.
        row: The row; None where it concerns all of them, as a dtype does.
        field: ``observations``, ``rewards``, ``terminated``, ``truncated`` or ``infos``.
        path: Where in the field.
        got: What the pool returned there, shortened.
        expected: Likewise what a SyncVectorEnv returned; both are empty where two runs in different processes differ.
    """

    step: int
    operation: str
    row: int | None
    field: str
    path: str
    got: str = ""
    expected: str = ""

    def __str__(self) -> str:
        rows = "all rows" if self.row is None else f"row {self.row}"
        where = f"{self.operation}, {rows}, {self.field}{self.path}"
        return f"{where}: got {self.got}, expected {self.expected}" if self.got or self.expected else where


@dataclass(slots=True)
class Outcome:
    """One combination.

    Attributes:
        hashes: Field → hash of everything that was returned for it; infos that were dropped are left out.
        difference: The first, where it differs.
        reason: Where it failed: the error, and when.
        dropped: Infos that could not travel, path → type; they are not compared.
    """

    engine: str
    transport: str
    result: Result
    hashes: dict[str, str] = field(default_factory=dict)
    difference: Difference | None = None
    reason: str = ""
    dropped: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ModeReport:
    """One autoreset mode.

    Attributes:
        unsteady: Where the expected side was not the same in a fresh process.
        reason: Why the expected side could not be played to its end.
    """

    autoreset_mode: str
    hashes: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    unsteady: Difference | None = None
    reason: str = ""


@dataclass(slots=True)
class EnvReport:
    """One environment.

    Attributes:
        reason: Why it was skipped, where it raises, or how it was found out that it is not deterministic.
    """

    env_id: str
    result: Result
    reason: str = ""
    modes: list[ModeReport] = field(default_factory=list)

    @classmethod
    def of(cls, env_id: str, modes: list[ModeReport]) -> EnvReport:
        """Sum up the modes."""
        for mode in modes:
            if mode.unsteady is not None:
                where = f"{mode.autoreset_mode}, {mode.unsteady}"
                return cls(env_id, Result.UNSTEADY, f"two runs in different processes differ: {where}", modes)
            if mode.reason:
                return cls(env_id, Result.RAISES, f"{mode.autoreset_mode}, {mode.reason}", modes)
        results = {outcome.result for mode in modes for outcome in mode.outcomes}
        for result in (Result.DIFFERS, Result.FAILED):
            if result in results:
                return cls(env_id, Result.DIFFERS, "", modes)
        return cls(env_id, Result.EQUAL if Result.EQUAL in results else Result.UNAVAILABLE, "", modes)


def exit_status(reports: Sequence[EnvReport], named: Collection[str]) -> ExitStatus:
    """The exit status that says it all.

    Args:
        reports: Of every environment.
        named: Those that must be verified; others may be skipped.
    """
    results = {report.result for report in reports}
    if Result.DIFFERS in results:
        return ExitStatus.DIFFERS
    if Result.UNSTEADY in results:
        return ExitStatus.UNSTEADY
    missed = any(report.result is not Result.EQUAL and report.env_id in named for report in reports)
    if missed or Result.RAISES in results or Result.EQUAL not in results:
        return ExitStatus.NOT_VERIFIED
    return ExitStatus.EQUAL


def lines(reports: Iterable[EnvReport]) -> list[str]:
    """The reports as text: a line a combination, the differences and the notes below each mode."""
    text = []
    for report in reports:
        text += ["", f"{report.env_id}: {report.result}{f' ({report.reason})' if report.reason else ''}"]
        if report.result in (Result.UNSTEADY, Result.RAISES, Result.SKIPPED):
            continue  # its tables would blame a pool for what is not its doing
        text.append(_line("", "", _HEADINGS))
        for mode in report.modes:
            text.append(_line(f"{mode.autoreset_mode} expected", "", _shortened(mode.hashes)))
            for outcome in mode.outcomes:
                text.append(
                    _line(f"  {outcome.engine} {outcome.transport}", outcome.result, _shortened(outcome.hashes))
                )
                text += [f"    {note}" for note in (outcome.difference, outcome.reason) if note]
        text += _left_out(report)
    return text


def _line(name: str, result: str, columns: Iterable[str]) -> str:
    return f"{name:<18} {result:<11} {' '.join(f'{column:<{_SHOWN_DIGITS}}' for column in columns)}".rstrip()


def _shortened(hashes: dict[str, str]) -> list[str]:
    return [hashes.get(name, "")[:_SHOWN_DIGITS] for name in FIELDS]


def _left_out(report: EnvReport) -> list[str]:
    dropped: dict[str, str] = {}
    for outcome in (outcome for mode in report.modes for outcome in mode.outcomes):
        dropped = {**outcome.dropped, **dropped}
    return [f"  not compared, because it cannot travel: the info {path!r} ({kind})" for path, kind in dropped.items()]
