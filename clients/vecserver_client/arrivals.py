"""Steps of parts that end when they end: whose results are there, and several of them as one batch."""

from __future__ import annotations

import select
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium.error import NoAsyncCallError

from vecserver.wire.errors import DeadlineExceeded, EnvFault, InvalidAction, InvalidSpec
from vecserver.wire.layout import assemble, leaf_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gymnasium.spaces import Space

    from vecserver.wire.errors import VecServerError
    from vecserver_client.link import Watched
    from vecserver_client.vector_env import ArenaVectorEnv, StepReturn

__all__ = ["Arrivals"]

_LOOK_S: Final = 1.0
"""Between two looks at a part that says nothing: an answer that was lost is asked for again by then."""

Array = np.ndarray[Any, Any]


def _say_whose(error: VecServerError, part: ArenaVectorEnv) -> None:
    """Say of which rows of the whole an error of a part speaks."""
    first, last = part.rows.start, part.rows.stop - 1
    error.details["part_rows"] = [first, last]
    error.add_note(f"of the worker with rows {first} to {last}, and of no other: its row 0 is row {first} of the whole")


class Arrivals:
    """What is under way in the parts of one vector environment, and what has arrived.

    Args:
        parts: Every part, in the order of its rows, and the link to it.
    """

    def __init__(self, parts: Sequence[tuple[ArenaVectorEnv, Watched]]) -> None:
        self._links = dict(parts)
        self._by_first = {part.rows.start: part for part, _ in parts}
        self._space: Space[Any] = parts[0][0].single_action_space
        self._under_way: list[ArenaVectorEnv] = []
        self._arrived: list[tuple[ArenaVectorEnv, StepReturn]] = []

    def send(self, actions: Any, rows: Any = None) -> None:
        """Begin to step rows: see ``ArenaVectorEnv.send``."""
        parts = [*self._links] if rows is None else self._of_rows(np.asarray(rows))
        batches = self._taken_apart(actions, [part.num_envs for part in parts])
        for part, batch in zip(parts, batches, strict=True):
            part.check_step(batch)
        for part, batch in zip(parts, batches, strict=True):
            try:
                part.step_async(batch)
            except InvalidAction as error:
                _say_whose(error, part)
                if sent := sum(len(each.rows) for each in parts[: parts.index(part)]):
                    error.add_note(f"the {sent} rows before it were sent, and are to be received")
                raise
            self._under_way.append(part)

    def _of_rows(self, rows: Array) -> list[ArenaVectorEnv]:
        parts: list[ArenaVectorEnv] = []
        at = 0
        while at < len(rows):
            part = self._by_first.get(int(rows[at]))
            if part is None or part in parts or rows[at : at + part.num_envs].tolist() != list(part.rows):
                shards = ", ".join(f"{part.rows.start} to {part.rows.stop - 1}" for part in self._links)
                raise InvalidAction(
                    f"the rows of a worker are stepped together: send them as `recv` gave them; these are {shards}; "
                    "nothing was stepped"
                )
            parts.append(part)
            at += part.num_envs
        return parts

    def _taken_apart(self, actions: Any, sizes: list[int]) -> list[Any]:
        """The batch of each part."""
        ends = np.cumsum([0, *sizes]).tolist()
        try:
            leaves = list(leaf_values(self._space, actions))
            lengths = {len(leaf) for leaf in leaves}
            if lengths != {ends[-1]}:
                raise InvalidAction(f"a batch of {sorted(lengths)} actions for {ends[-1]} rows; nothing was stepped")
            return [assemble(self._space, iter([leaf[first:end] for leaf in leaves])) for first, end in pairwise(ends)]
        except (KeyError, IndexError, TypeError) as error:
            if isinstance(error, InvalidAction):
                raise
            raise InvalidAction(
                f"the action batch does not have the structure of {self._space}: {error!r}; nothing was stepped"
            ) from None

    def recv(self, min_rows: int, timeout: float) -> tuple[list[StepReturn], Array]:
        """Wait for rows: see ``ArenaVectorEnv.recv``.

        Returns:
            The batches that are there, and which rows of the whole they are of, one behind the other.
        """
        self._check(min_rows)
        deadline = monotonic() + timeout
        while True:
            self._gather()
            if sum(part.num_envs for part, _ in self._arrived) >= min_rows:
                break
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise DeadlineExceeded(
                    f"fewer than {min_rows} rows within {timeout:g} s; all of them are still to be received",
                    rows=[row for part in self._under_way for row in (part.rows.start, part.rows.stop - 1)],
                )
            self._wait(min(remaining, _LOOK_S))
        arrived, self._arrived = self._arrived, []
        return [batch for _, batch in arrived], np.concatenate([np.asarray(part.rows, np.int32) for part, _ in arrived])

    @property
    def to_come(self) -> int:
        """Rows that were sent and not received."""
        return sum(part.num_envs for part in [*self._under_way, *(part for part, _ in self._arrived)])

    def _check(self, min_rows: int) -> None:
        to_come = self.to_come
        if not to_come:
            raise NoAsyncCallError("`recv` without a call to `send` before", "send")
        if not 1 <= min_rows <= to_come:
            raise InvalidSpec(f"min_rows is {min_rows}, and {to_come} rows are to be received", field="min_rows")

    def _gather(self) -> None:
        for part in [*self._under_way]:
            if self._links[part].ready():
                self._under_way.remove(part)  # also where it raises: its step is over then
                try:
                    self._arrived.append((part, part.step_wait()))
                except (EnvFault, InvalidAction) as error:
                    _say_whose(error, part)
                    raise
                finally:
                    if part.pending_call is not None:
                        self._under_way.append(part)

    def _wait(self, timeout: float) -> None:
        poll = select.poll()
        for part in self._under_way:
            for fd in self._links[part].fds:
                poll.register(fd, select.POLLIN)
        poll.poll(timeout * 1000)
