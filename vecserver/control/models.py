"""The bodies of requests and answers, as pydantic models: they exist at the HTTP edge only."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vecserver.pools.spec import PoolSpec
from vecserver.wire.errors import DeadlineExceeded, InvalidSpec, PoolLost

if TYPE_CHECKING:
    from vecserver.pools.results import Grant, PoolView

__all__ = [
    "AccessAnswer",
    "AccessRequest",
    "BatchAnswer",
    "LeaseAnswer",
    "LeaseRequest",
    "PoolAnswer",
    "PoolList",
    "PoolRequest",
    "ResetRequest",
    "Spaces",
    "StatsAnswer",
    "StepRequest",
]

_ONE_FAULT = Field(fail_fast=True)
"""Of a list no more than the first fault is told: each is a hundred times as large as what is wrong."""
Seed = Annotated[int, Field(ge=0, le=2**62)]  # row i gets seed + i, which still fits the wire's 64 bits


class _Request(BaseModel):
    """A body whose unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        known = list(cls.model_fields)
        unknown = [name for name in data if name not in known] if isinstance(data, dict) else []
        if unknown:
            close = difflib.get_close_matches(str(unknown[0]), known, n=1)
            hint = f"did you mean {close[0]}?" if close else "there is no such field"
            raise InvalidSpec(
                f"unknown field {unknown[0]!r}: {hint} Known: {', '.join(known)}",
                field=str(unknown[0]),
                known=known,
            )
        return data


class PoolRequest(_Request):
    """The options of a pool: those of ``make_vec``, and a name."""

    env_id: str = Field(description="A registered id, or `module:Id-v0`", examples=["CartPole-v1"])
    num_envs: int = Field(description="Rows", examples=[8])
    engine: str = Field("auto", description="`auto`, `envs`, `async`, `sync` or `native`")
    workers: int | None = Field(None, description="Worker processes; null for as many as pay")
    autoreset_mode: str = Field("NextStep", description="`NextStep`, `SameStep` or `Disabled`")
    observation_mode: str = Field("same", description="`same`, or `different` for rows whose bounds may differ")
    render_mode: str | None = Field(None, description="Passed to `gymnasium.make`")
    env_kwargs: dict[str, Any] = Field({}, description="Passed to `gymnasium.make`")
    wrappers: Annotated[list[str | dict[str, Any]], _ONE_FAULT] = Field(
        [],
        description='Gymnasium\'s wrappers, the first innermost: names, or `{"id": name, "kwargs": {…}}`',
        examples=[["TimeAwareObservation", {"id": "ClipReward", "kwargs": {"max_reward": 1}}]],
    )
    info: str | Annotated[list[str], _ONE_FAULT] = Field(
        "all", description="Infos to send: `all`, `episode`, `none`, or a list of keys"
    )
    episode_statistics: bool = Field(False, description="Send return, length and time of each episode that ends")
    step_timeout: float = Field(60.0, description="Seconds that a worker may take for a batch before it is replaced")
    lease_ttl: float = Field(60.0, description="Seconds of silence after which another driver may take the pool")
    on_failure: str = Field(
        "truncate", description="What a worker's death means for the batch: `truncate`, `raise` or `replay`"
    )
    restart_budget: int | None = Field(30, description="Workers that may be replaced a minute; null for any number")
    lease_expiry: str = Field("keep", description="What else becomes of it then: `keep`, `reset` or `destroy`")
    name: str | None = Field(None, description="Its id; null for one made up")
    durable: bool = Field(
        False, description="Made again, with a new epoch, when its host has ended and when the server starts again"
    )

    def spec(self) -> PoolSpec:
        """What the registry makes a pool from."""
        return PoolSpec(**self.model_dump(exclude={"name", "durable"}))


class ResetRequest(_Request):
    """Which rows to reset, and how."""

    seed: Seed | Annotated[list[Seed | None], _ONE_FAULT] | None = Field(
        None, description="One seed (row i gets seed + i), or one a row"
    )
    mask: Annotated[list[bool], _ONE_FAULT] | None = Field(None, description="Rows to reset; null for all")
    options: dict[str, Any] | Annotated[list[dict[str, Any] | None], _ONE_FAULT] | None = Field(
        None, description="Passed to each environment's `reset`; or one object, or null, a row"
    )


class StepRequest(_Request):
    """One action a row."""

    actions: Any = Field(description="A batch of the action space: an array of num_envs rows, or objects of such")


class LeaseRequest(_Request):
    """Who is to drive a pool."""

    driver: str = Field("operator", description="A name for people: the driver before is told it", max_length=200)
    force: bool = Field(False, description="Take the pool from the driver it has")


class LeaseAnswer(BaseModel):
    """The right to drive a pool. It ends unless its driver is heard of within the pool's `lease_ttl`."""

    pool: str
    driver: str
    before: str | None = Field(description="Who had it; null for nobody")
    lease: int = Field(description="The driver's fencing number")
    epoch: str = Field(description="The pool's incarnation, as in a pool")
    resume: str = Field(description="What `vecserver_client.attach` takes as `resume` to drive with this lease")

    @classmethod
    def of(cls, grant: Grant) -> LeaseAnswer:
        """A lease as the registry gave it."""
        return cls(
            pool=grant.pool,
            driver=grant.driver,
            before=grant.before or None,
            lease=grant.point.lease,
            epoch=str(grant.point.epoch),
            resume=str(grant.point),
        )


class Spaces(BaseModel):
    """The spaces of one row, as `docs/protocol.md` describes them."""

    observation: dict[str, Any]
    action: dict[str, Any]
    row_observations: list[dict[str, Any]] | None = Field(description="One a row where they may differ; else null")


class HistogramAnswer(BaseModel):
    """How often something took how long."""

    bounds: list[float] = Field(description="Upper bounds in seconds")
    counts: list[int] = Field(description="Up to each bound and beyond the one before; the last is beyond all bounds")
    sum: float = Field(description="Seconds, all together")


class EpisodesAnswer(BaseModel):
    """Returns and lengths of episodes that ended; the mean return is `(gained - lost) / count`."""

    count: int = Field(description="Episodes in the sums")
    left_out: int = Field(description="Those whose return was no finite number, or beyond 1e15")
    gained: float = Field(description="Sum of the returns above zero")
    lost: float = Field(description="Sum of the returns below zero, without the sign")
    steps: int = Field(description="Sum of the lengths")
    recent: list[tuple[float, float | None, int]] = Field(description="The last ones: seconds ago, return, length")


class StatsAnswer(BaseModel):
    """The counters of a pool; its attributes are those of `Stats` in `docs/protocol.md`."""

    state: str
    reason: str
    batches: int
    env_steps: int
    episodes: int
    resets: int
    refused: int
    lease: int
    driver: str
    idle_s: float
    arena_bytes: int
    worker_pids: list[int]
    rss_bytes: list[int]
    host_rss_bytes: int
    worker_rows: list[tuple[int, int]] = Field(description="First row and end of each worker's shard")
    worker_batches: list[int] = Field(description="Batches that each worker has stepped")
    worker_busy_s: list[float] = Field(description="Seconds in which it did")
    worker_last: list[int] = Field(description="How often it was the last one to finish a batch")
    batch_seconds: HistogramAnswer = Field(description="From a batch's order to the end of the last worker")
    episode_figures: EpisodesAnswer
    requests: dict[str, int] = Field(description="Messages by kind")
    refusals: dict[str, int] = Field(description="Messages refused, by code")
    replayed: int = Field(description="Answers sent again")
    in_progress: int = Field(description="Answers that a request was still running")
    waiting: int = Field(description="Requests that wait for the arena now")
    received_bytes: int
    sent_bytes: int
    lent: bool = Field(description="Whether a driver on the server's machine steps in the arena itself")
    restarts: dict[str, int] = Field(description="Workers that were replaced, by cause")
    infos_dropped: int = Field(
        description="Values of infos that were left out: too large, or of a class without a place"
    )
    rebuilt_rows: int = Field(description="Rows that went on as they were with another worker")

    @classmethod
    def of(cls, view: PoolView) -> StatsAnswer:
        """The counters in a view.

        Raises:
            PoolLost: The pool's host is gone.
            DeadlineExceeded: The host lives and did not answer in time.
        """
        if view.stats is not None:
            return cls(**msgspec.to_builtins(view.stats))
        if view.state == "lost":
            raise PoolLost(f"pool {view.pool} is lost: {view.reason}", pool=view.pool)
        raise DeadlineExceeded(f"the host of pool {view.pool} did not answer in time; ask again", pool=view.pool)


class PoolAnswer(BaseModel):
    """A pool."""

    pool: str = Field(description="Its id")
    state: str = Field(description="`ready`, `broken`, `silent` (its host does not answer) or `lost`")
    reason: str = Field(description="Why it is not ready")
    env_id: str
    num_envs: int
    engine: str = Field(description="What the workers run; never `auto`")
    workers: int
    autoreset_mode: str
    observation_mode: str
    render_mode: str | None
    env_kwargs: dict[str, Any]
    wrappers: list[str | dict[str, Any]]
    info: str | list[str]
    episode_statistics: bool
    step_timeout: float
    lease_ttl: float
    lease_expiry: str
    on_failure: str
    restart_budget: int | None
    endpoints: dict[str, str] = Field(
        description="Transport to address: ZeroMQ's, and of `ws` the path behind this server's own"
    )
    spaces: Spaces
    layout: dict[str, Any] = Field(description="Where each array lies in a slot")
    metadata: dict[str, Any]
    epoch: str = Field(description="Its incarnation: 64 bits, as text because JSON numbers of some languages have 53")
    arena_bytes: int = Field(description="Its shared memory")
    stats: StatsAnswer | None = Field(description="Its counters; null when its host does not answer")
    host_pid: int
    created: datetime
    creation_s: float = Field(description="Seconds it took to make")
    durable: bool = Field(description="Whether it is made again when its host has ended")
    restarts: int = Field(description="How often its host was made again since the server started")
    last_loss: str = Field(description="How the host before the present one ended; empty where there was none")
    exitcode: int | None = Field(description="How its host ended, negative for a signal; null while it runs")

    @classmethod
    def of(cls, view: PoolView) -> PoolAnswer:
        """A pool as its registry sees it."""
        info, spec = view.info, view.spec
        return cls(
            pool=view.pool,
            state=view.state,
            reason=view.reason,
            env_id=info.env_id,
            num_envs=info.num_envs,
            engine=info.engine,
            workers=info.workers,
            autoreset_mode=info.autoreset_mode,
            observation_mode=spec.observation_mode,
            render_mode=info.render_mode,
            env_kwargs=spec.env_kwargs,
            wrappers=spec.wrappers,
            info=spec.info,
            episode_statistics=spec.episode_statistics,
            step_timeout=info.step_timeout,
            lease_ttl=info.lease_ttl,
            lease_expiry=spec.lease_expiry,
            on_failure=spec.on_failure,
            restart_budget=spec.restart_budget,
            endpoints=view.endpoints | {"ws": f"/v1/pools/{view.pool}/ws"},
            spaces=Spaces(
                observation=info.observation_space,
                action=info.action_space,
                row_observations=info.row_observation_spaces,
            ),
            layout=info.layout,
            metadata=info.metadata,
            arena_bytes=view.arena_bytes,
            epoch=str(view.epoch),
            stats=StatsAnswer.of(view) if view.stats is not None else None,
            host_pid=view.host_pid,
            created=datetime.fromtimestamp(view.created, UTC),
            creation_s=view.creation_s,
            durable=view.durable,
            restarts=view.restarts,
            last_loss=view.last_loss,
            exitcode=view.exitcode,
        )


class PoolList(BaseModel):
    """All pools."""

    pools: list[PoolAnswer]


class AccessRequest(_Request):
    """Who wants to come in at a pool's tcp port."""

    key: str | None = Field(
        None,
        max_length=40,
        description="The client's public key, 40 characters of Z85; where the port has CURVE, nobody comes in without",
    )


class AccessAnswer(BaseModel):
    """What lets it in; one of the two."""

    ticket: str | None = Field(description="To be shown by the mechanism PLAIN, as the password of any name")
    server_key: str | None = Field(description="The server's public key: the mechanism is CURVE, with the client's key")


class BatchAnswer(BaseModel):
    """One result of a pool; non-finite numbers are null."""

    observations: Any = Field(description="In the structure of the observation space, num_envs rows")
    rewards: list[float | None] | None = Field(description="One a row; null after a reset")
    terminated: list[bool] | None = Field(description="One a row; null after a reset")
    truncated: list[bool] | None = Field(description="One a row; null after a reset")
    infos: dict[str, Any] = Field(description="Gymnasium's merged infos: `_key` says which rows of `key` are set")
