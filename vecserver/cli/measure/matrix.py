"""Several comparisons, one behind the other: one that cannot run is told of, and the others go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vecserver.cli.measure.compare import compare
from vecserver.cli.measure.report import Report
from vecserver.wire.errors import VecServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vecserver.cli.measure.question import Question

__all__ = ["CannotRun", "as_json", "compare_all"]


@dataclass(frozen=True, slots=True)
class CannotRun:
    """A comparison that could not be made.

    Attributes:
        code: Of the error.
        message: What it says.
    """

    env_id: str
    num_envs: int
    code: str
    message: str


def compare_all(questions: Sequence[Question], progress: Callable[[str], None]) -> Iterator[Report | CannotRun]:
    """Make each comparison in a run of its own, with its own ceiling.

    Raises:
        VecServerError: The only one cannot be made.
    """
    for question in questions:
        if len(questions) > 1:
            progress(f"{question.env_id} × {question.num_envs}")
        try:
            yield compare(question, progress)
        except VecServerError as error:
            if len(questions) == 1:
                raise
            yield CannotRun(question.env_id, question.num_envs, error.code, error.message)


def as_json(results: Sequence[Report | CannotRun]) -> Any:
    """The comparison as a JSON object, or several as an array of them; one that could not be made has an ``error``."""
    values = [
        asdict(result)
        if isinstance(result, Report)
        else {
            "env_id": result.env_id,
            "num_envs": result.num_envs,
            "error": {"code": result.code, "message": result.message},
        }
        for result in results
    ]
    return values[0] if len(values) == 1 else values
