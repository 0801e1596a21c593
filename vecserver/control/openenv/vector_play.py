"""A pool as one OpenEnv client plays it: messages in, list-valued answers out. No sockets."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from vecserver.pools.json_actions import batch_from_json
from vecserver.pools.sessions.actions import describe_actions, unwrapped
from vecserver.pools.sessions.answers import Answer, Kind, StepData, convert, error_data, read_message
from vecserver.pools.sessions.jsonrpc import answer_rpc
from vecserver.wire import frames
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import InvalidAction, InvalidSpec, ResetNeeded, VecServerError
from vecserver.wire.json_values import to_json, to_json_value
from vecserver.wire.messages import Reset, encode, pack_options
from vecserver.wire.spaces import space_from_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vecserver.pools.results import Batch
    from vecserver.wire.frames import Buffer
    from vecserver.wire.messages import PoolInfo

    Run = Callable[[frames.Kind, bytes, Buffer], Awaitable[Batch]]

__all__ = ["VectorPlay"]

_Seed = Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # row i gets seed + i, which still fits the wire's 64 bits


class _ResetData(msgspec.Struct, frozen=True, kw_only=True):
    """What a reset may say; what else a client sends along is not looked at."""

    seed: _Seed | list[_Seed | None] | None = None
    mask: list[bool] | None = None
    episode_id: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    env_id: str | None = None
    kwargs: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class VectorPlay:
    """Answers messages by running requests, and counts.

    Args:
        info: The pool.
        run: Runs a STEP or a RESET of the pool.
    """

    def __init__(self, info: PoolInfo, run: Run) -> None:
        self._info = info
        self._run = run
        self._space = space_from_json(info.action_space)
        self._format = ActionFormat(self._space, info.num_envs)
        self._legal_actions = describe_actions(self._space)
        self._episode_id: str | None = None
        self._seed: int | list[int | None] | None = None
        self._steps = 0
        self._lengths = np.zeros(info.num_envs, np.int64)
        self._totals = np.zeros(info.num_envs)
        self._done = np.zeros(info.num_envs, bool)
        self._shown = np.zeros(info.num_envs, bool)
        """Rows that were reset since the driver came."""

    async def answer(self, message: str | bytes) -> tuple[Answer, VecServerError | None]:
        """Answer a message.

        Returns:
            The answer, and the error that it tells of, if any.
        """
        try:
            return await self._answer(*read_message(message)), None
        except VecServerError as error:
            return Answer(Kind.ERROR, error_data(error)), error

    async def _answer(self, kind: str, data: dict[str, Any] | None) -> Answer:
        match kind:
            case "step":
                return Answer(Kind.OBSERVATION, await self._step(convert(data, StepData).action))
            case "reset":
                return Answer(Kind.OBSERVATION, await self._reset(convert(data or {}, _ResetData)))
            case "state":
                return Answer(Kind.STATE, self._state())
            case "mcp":
                return Answer(Kind.MCP, to_json(answer_rpc(data)))
            case _:
                return Answer(Kind.CLOSE, b"")

    async def _reset(self, data: _ResetData) -> bytes:
        rows = self._info.num_envs
        if data.kwargs is not None or data.env_id not in (None, self._info.env_id):
            raise InvalidSpec(
                f"a pool stays what it was made of, {self._info.env_id}: make another over HTTP, or play it at /ws",
                field="env_id" if data.kwargs is None else "kwargs",
            )
        for name, given in (("seed", data.seed), ("mask", data.mask)):
            if isinstance(given, list) and len(given) != rows:
                raise InvalidSpec(f"{name} has {len(given)} values for {rows} rows", field=name)
        seeds: list[int | None] | None = (
            [data.seed + row for row in range(rows)] if isinstance(data.seed, int) else data.seed
        )
        request = Reset(seeds, data.mask, pack_options(data.options))
        batch = await self._run(frames.Kind.RESET, encode(request), b"")
        fresh = np.ones(rows, bool) if data.mask is None else np.array(data.mask)
        self._lengths[fresh], self._totals[fresh], self._done[fresh] = 0, 0.0, False
        self._shown |= fresh
        self._episode_id = data.episode_id if data.episode_id is not None else str(uuid.uuid4())
        self._seed, self._steps = data.seed, 0
        return self._observation(batch)

    async def _step(self, action: Any) -> bytes:
        over = self._done if self._info.autoreset_mode == "Disabled" else np.False_
        waiting = np.flatnonzero(~self._shown | over)
        if len(waiting):
            raise ResetNeeded(f"no episode is under way in {len(waiting)} rows: reset first", row=int(waiting[0]))
        try:
            batch = batch_from_json(self._space, unwrapped(self._space, action))
            ext, body = self._format.encode(self._format.coerce(batch))
        except InvalidAction as error:
            raise InvalidAction(
                f"{error.message}; an action is a list of {self._info.num_envs}, one of {self._space!s:.500} a row",
                **error.details | {"space": str(self._space)[:500], "rows": self._info.num_envs},
            ) from None
        result = await self._run(frames.Kind.STEP, ext, body)
        assert result.rewards is not None
        self._count(result)
        return self._observation(result)

    def _count(self, batch: Batch) -> None:
        """Count a step of each row; one whose episode was over begins its next one, in NextStep mode by this step."""
        self._steps += 1
        began = self._done
        self._lengths[began], self._totals[began] = 0, 0.0
        stepped = ~began if self._info.autoreset_mode == "NextStep" else np.ones_like(began)
        self._lengths[stepped] += 1
        self._totals[stepped] += batch.rewards[stepped]  # type: ignore[index]
        self._done = batch.terminated | batch.truncated  # type: ignore[operator]

    def _observation(self, batch: Batch) -> bytes:
        none = np.zeros(self._info.num_envs, bool)
        metadata = {
            "terminated": none if batch.terminated is None else batch.terminated,
            "truncated": none if batch.truncated is None else batch.truncated,
            "info": to_json_value(batch.infos),
        }
        return to_json(
            {
                "observation": {
                    "state": batch.observations,
                    "legal_actions": self._legal_actions,
                    "episode_length": self._lengths,
                    "total_reward": self._totals,
                    "metadata": metadata,
                },
                "reward": batch.rewards,
                "done": self._done,
                "metadata": metadata,
            }
        )

    def _state(self) -> bytes:
        info = self._info
        return to_json(
            {
                "episode_id": self._episode_id,
                "step_count": self._steps,
                "env_id": info.env_id,
                "render_mode": info.render_mode,
                "seed": self._seed,
                "pool": info.pool,
                "num_envs": info.num_envs,
                "autoreset_mode": info.autoreset_mode,
                "episode_length": self._lengths,
                "total_reward": self._totals,
            }
        )
