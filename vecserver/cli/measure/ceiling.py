"""The ceiling: as many processes as cores, each stepping environments of its own in a bare loop.

They share nothing and wait for nobody but for the start of a round: Python environments go no faster on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

from vecserver.arena.plan import even_shards
from vecserver.cli.measure.subjects import Sample
from vecserver.wire.errors import WorkerDied

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Ceiling"]

_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""As a pool's workers: one process a core leaves no core for a second thread."""

_LEAVE_S: Final = 1.0
"""Seconds to close the environments; then a process is killed."""


class Ceiling:
    """Starts the processes; use it as a context manager. Between two rounds they wait at a pipe.

    Args:
        env_id: A registered id.
        num_envs: Environments, split evenly among the processes.

    Raises:
        WorkerDied: A process ended before its environments were made; it has said why on stderr.
    """

    def __init__(self, env_id: str, num_envs: int) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            for rows in even_shards(num_envs, min(len(os.sched_getaffinity(0)), num_envs)):
                arguments = (str(os.getpid()), env_id, str(num_envs), *map(str, rows))
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "vecserver.cli.measure.bare_loop", *arguments],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        env={**os.environ, **_ONE_THREAD},
                        start_new_session=True,  # Ctrl-C is for the comparison, which ends them in order
                    )
                )
            self._answers()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids."""
        return [process.pid for process in self._processes]

    def measure(self, seconds: float) -> Sample:
        """Step everywhere for so long: the sum of what the processes did, each by its own clock.

        Raises:
            WorkerDied: A process ended; it has said why on stderr.
        """
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it ended: its answer, which is none, tells
                process.stdin.write(f"{seconds}\n")
                process.stdin.flush()
        rates = (int(steps) * 1e9 / int(nanoseconds) for steps, nanoseconds in map(str.split, self._answers()))
        return Sample(sum(rates))

    def _answers(self) -> list[str]:
        answers = []
        for process in self._processes:
            assert process.stdout is not None
            answer = process.stdout.readline()
            if not answer:
                raise WorkerDied("a process of the ceiling ended; what it says is above")
            answers.append(answer)
        return answers

    def close(self) -> None:
        """End the processes; may be called again."""
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
