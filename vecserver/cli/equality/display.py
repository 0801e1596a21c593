"""How far a verification is: a bar that moves in a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Display"]

_STDOUT, _STDERR = 1, 2


class Display:
    """Writes to stderr; use it as a context manager.

    Meanwhile whatever else is written to stdout and stderr, by environments, native libraries and the private server,
    is kept away from the bar and from the result. It is shown at the end if that is an error.

    Args:
        runs: Runs to come, one an environment and autoreset mode.
    """

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._begun = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            in_terminal = sys.stdout.isatty()
            stream = stack.enter_context(os.fdopen(os.dup(_STDERR), "w"))
            self._others = stack.enter_context(tempfile.TemporaryFile())
            for number, own in ((_STDOUT, sys.stdout), (_STDERR, sys.stderr)):
                own.flush()
                kept = os.dup(number)
                stack.callback(_put_back, kept, number)
                os.dup2(self._others.fileno(), number)
            console = Console(file=stream)
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
                disable=not (console.is_terminal and in_terminal),
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._all = self._progress.add_task("runs", total=self._runs)
            self._run = self._progress.add_task("", total=None)
            stack.enter_context(self._progress)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            self._stack.callback(self._show_others)
        # what was put on the stack last is run first: shown while both streams are still the display's
        self._stack.close()

    def _show_others(self) -> None:
        self._others.seek(0)
        shutil.copyfileobj(self._others, self._progress.console.file.buffer)  # type: ignore[attr-defined]

    def begin(self, what: str, steps: int) -> None:
        """A run begins."""
        self._progress.update(self._all, completed=self._begun)
        self._progress.reset(self._run, description=what, total=steps)
        self._begun += 1
        if self._progress.disable:
            self.say(f"{what}: {steps} steps")

    def advance(self, step: int) -> None:
        """A step of it is done."""
        self._progress.update(self._run, completed=step)

    def say(self, line: str) -> None:
        """Something is known; in a terminal it stands above the bar."""
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _put_back(kept: int, number: int) -> None:
    (sys.stdout if number == _STDOUT else sys.stderr).flush()
    os.dup2(kept, number)
    os.close(kept)
