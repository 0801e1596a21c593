"""The ceiling: as many processes as cores, each stepping environments of its own in a bare loop.

They share nothing and wait for nobody but for the start of a round: Python environments go no faster on this machine.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from vecserver.arena.plan import even_shards
from vecserver.cli.measure.line_process import LineProcess
from vecserver.cli.measure.subjects import Sample
from vecserver.wire.errors import DeadlineExceeded, WorkerDied

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Ceiling"]

_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""As a pool's workers: one process a core leaves no core for a second thread."""

_MAKE_S: Final = 120.0
"""Seconds to make the environments; as the peers have."""
_SLACK_S: Final = 30.0
"""Seconds that a round may take beyond its own: one that was begun is finished, and an environment may be slow."""


class Ceiling:
    """Starts the processes; use it as a context manager. Between two rounds they wait at a pipe.

    Args:
        env_id: A registered id.
        num_envs: Environments, split evenly among the processes.

    Raises:
        WorkerDied: A process ended before its environments were made; it has said why on stderr.
        DeadlineExceeded: They were not made in time.
    """

    def __init__(self, env_id: str, num_envs: int) -> None:
        self._processes: list[LineProcess] = []
        with ExitStack() as undo:
            undo.callback(self.close)
            self.shards = even_shards(num_envs, min(len(os.sched_getaffinity(0)), num_envs))
            """First and end row of each process."""
            for rows in self.shards:
                arguments = (str(os.getpid()), env_id, str(num_envs), *map(str, rows))
                command = (sys.executable, "-m", "vecserver.cli.measure.bare_loop", *arguments)
                self._processes.append(LineProcess(command, {**os.environ, **_ONE_THREAD}))
            self._answers(_MAKE_S)
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
            DeadlineExceeded: A process does not answer: an environment's step hangs.
        """
        return Sample(sum(self.rates(seconds)))

    def rates(self, seconds: float) -> list[float]:
        """As ``measure``: environment steps a second of each process, in the order of ``shards``."""
        for process in self._processes:
            process.ask(str(seconds))
        return [
            int(steps) * 1e9 / int(nanoseconds)
            for steps, nanoseconds in map(str.split, self._answers(seconds + _SLACK_S))
        ]

    def _answers(self, timeout: float) -> list[str]:
        deadline = monotonic() + timeout
        try:
            return [process.answer(max(0.0, deadline - monotonic())) for process in self._processes]
        except EOFError:
            raise WorkerDied("a process of the ceiling ended; what it says is above") from None
        except TimeoutError:
            raise DeadlineExceeded(
                f"a process of the ceiling did not answer within {timeout:g} s: an environment hangs, or its steps are "
                "too slow to be measured so"
            ) from None

    def close(self) -> None:
        """End the processes; may be called again."""
        for process in self._processes:
            process.hang_up()
        for process in self._processes:
            process.close()
