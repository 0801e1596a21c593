"""A part of a split pool: some of its workers, and an arena of their own for as long as it lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from vecserver.arena.plan import ArenaPlan
from vecserver.pools.crew import Crew, OwnedArena
from vecserver.wire.actions import ActionFormat
from vecserver.wire.layout import Layout

if TYPE_CHECKING:
    import numpy as np

    from vecserver.engine.base import EngineInfo
    from vecserver.pools.workers import WorkerProcess
    from vecserver.wire.errors import VecServerError

__all__ = ["PartCrew"]


class PartCrew(Crew):
    """Some workers of a pool, driven beside the others over rows that are counted from 0.

    Its workers come to its arena and leave it again by commands of the whole.

    Args:
        whole: The pool's crew.
        workers: The part's, which stand beside each other.
        rows: Their rows in the pool, first and end.
        described: What its environments are like.
        over: Rows [n] of the part whose episode is over.

    Raises:
        OSError: No descriptor or memory is left for it.
    """

    def __init__(
        self,
        whole: Crew,
        workers: list[WorkerProcess],
        rows: tuple[int, int],
        described: EngineInfo,
        over: np.ndarray[Any, Any],
    ) -> None:
        info = whole.info
        arena = OwnedArena(f"vecserver-{info.pool}-{rows[0]}")
        super().__init__(arena, info.autoreset_mode, bounded=whole.bounded)
        self._whole, self.replacements = whole, whole.replacements
        self._workers = workers
        self._over = over
        self.rows = rows
        self.max_ext = whole.max_ext
        self.open_names = whole.open_names
        first, end = rows
        each = info.row_observation_spaces
        self.actions = ActionFormat(described.action_space, end - first)
        self.layout = Layout.of(described.observation_space, end - first)
        self.info = replace(
            info,
            num_envs=end - first,
            layout=self.layout.describe(),
            layout_hash=self.layout.hash,
            workers=len(workers),
            max_request=self.actions.area_size,
            row_observation_spaces=None if each is None else each[first:end],
        )
        shards = tuple((worker.rows[0] - first, worker.rows[1] - first) for worker in workers)
        try:
            self._man(ArenaPlan.of(self.layout, self.actions, shards))
        except BaseException:
            self.disband()
            raise

    @property
    def worker_memory(self) -> list[int]:
        """The descriptors that its workers need: the arena's memory, tokens and bell of its finish line."""
        return [self._arena.memory_fd, self._arena.tokens_fd, self._arena.done_fd]

    @property
    def workers(self) -> list[WorkerProcess]:
        """Its workers, in the order of their rows."""
        return self._workers

    def disband(self) -> None:
        """As of any crew; the arena's memory goes with it at once, though the pool lives on."""
        super().disband()
        for name in ("lending", "_driver", "_views"):  # lending and crew know each other
            self.__dict__.pop(name, None)

    def fail(self, error: VecServerError) -> None:
        """Note that the pool cannot step any more, this part and every other."""
        self._whole.fail(error)

    def note_failed(self, error: VecServerError) -> None:
        """As ``fail``, from the whole."""
        super().fail(error)
