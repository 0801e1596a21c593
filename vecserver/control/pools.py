"""The routes of pools. Each parses, calls one method of the registry, and answers.

They are plain functions, which FastAPI runs in threads, because the registry waits for hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from fastapi import APIRouter, Header, Query, Response

from vecserver.control.models import (
    AccessAnswer,
    AccessRequest,
    BatchAnswer,
    LeaseAnswer,
    LeaseRequest,
    PoolAnswer,
    PoolList,
    PoolRequest,
    ResetRequest,
    StatsAnswer,
    StepRequest,
)
from vecserver.control.problems import problems
from vecserver.control.rendering import JsonResponse, batch_to_json
from vecserver.pools.keys import digest_of_request
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    EnvCreationFailed,
    EnvFault,
    EpochMismatch,
    HostStartFailed,
    InvalidAction,
    InvalidSpec,
    LeaseHeld,
    MalformedMessage,
    MessageTooLarge,
    PoolBroken,
    PoolLost,
    PoolStopping,
    PortUnavailable,
    SequenceConflict,
    SequenceStale,
    StateUnavailable,
    StillRunning,
    UnknownEnv,
    UnknownPool,
    UnsupportedSpace,
)
from vecserver.wire.json_values import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from vecserver.pools.registry import Registry
    from vecserver.pools.results import Batch

__all__ = ["pool_routes"]

Key = Annotated[
    str | None,
    Header(
        description="A text of the sender's choice: the same request with the same key is run once, and answered again"
    ),
]
Epoch = Annotated[
    int | None,
    Header(description="The pool's incarnation that the request is meant for: for another one nothing is run"),
]
Force = Annotated[bool, Query(description="Do not wait for the batch in flight, nor for environments to close")]

_NOT_CREATED = problems(
    InvalidSpec,
    CapExceeded,
    UnknownEnv,
    EnvCreationFailed,
    UnsupportedSpace,
    HostStartFailed,
    PortUnavailable,
    StateUnavailable,
    PoolStopping,
    MalformedMessage,
    MessageTooLarge,
)
_NOT_STEPPED = problems(
    UnknownPool,
    InvalidAction,
    InvalidSpec,
    EnvFault,
    LeaseHeld,
    PoolBroken,
    PoolLost,
    PoolStopping,
    DeadlineExceeded,
    EpochMismatch,
    SequenceConflict,
    SequenceStale,
    StillRunning,
    MalformedMessage,
    MessageTooLarge,
)


def pool_routes(registry: Registry) -> APIRouter:
    """The routes below ``/v1/pools``.

    Args:
        registry: The pools.
    """
    router = APIRouter(prefix="/v1/pools", tags=["pools"])

    @router.post("", status_code=201, summary="Create a pool", responses=_NOT_CREATED)
    def create_pool(request: PoolRequest, response: Response) -> PoolAnswer:
        view = registry.create(request.spec(), request.name, durable=request.durable)
        response.headers["Location"] = f"/v1/pools/{view.pool}"
        return PoolAnswer.of(view)

    @router.get("", summary="List the pools", responses=problems())
    def list_pools() -> PoolList:
        return PoolList(pools=[PoolAnswer.of(view) for view in registry.list()])

    @router.get("/{pool}", summary="Show a pool", responses=problems(UnknownPool))
    def show_pool(pool: str) -> PoolAnswer:
        return PoolAnswer.of(registry.get(pool))

    @router.delete(
        "/{pool}",
        status_code=204,
        summary="Delete a pool",
        response_class=Response,
        responses=problems(UnknownPool, StateUnavailable, InvalidSpec),
    )
    def delete_pool(pool: str, *, force: Force = False) -> None:
        registry.delete(pool, force=force)

    @router.get(
        "/{pool}/stats", summary="A pool's counters", responses=problems(UnknownPool, PoolLost, DeadlineExceeded)
    )
    def pool_stats(pool: str) -> StatsAnswer:
        return StatsAnswer.of(registry.get(pool))

    @router.post(
        "/{pool}/lease",
        summary="Give the right to drive a pool",
        responses=problems(UnknownPool, LeaseHeld, InvalidSpec, PoolLost, DeadlineExceeded, MalformedMessage),
    )
    def take_lease(pool: str, request: LeaseRequest) -> LeaseAnswer:
        return LeaseAnswer.of(registry.take_lease(pool, request.driver, force=request.force))

    @router.post(
        "/{pool}/access",
        summary="Be let in at a pool's tcp port",
        responses=problems(UnknownPool, InvalidSpec, PoolLost, DeadlineExceeded, MalformedMessage),
    )
    def give_access(pool: str, request: AccessRequest) -> AccessAnswer:
        access = registry.access(pool, request.key)
        return AccessAnswer(ticket=access.ticket, server_key=access.server_key)

    @router.post("/{pool}/reset", summary="Reset rows", response_model=BatchAnswer, responses=_NOT_STEPPED)
    def reset_pool(pool: str, request: ResetRequest, idempotency_key: Key = None, pool_epoch: Epoch = None) -> Response:
        def reset() -> Batch:
            return registry.reset(pool, seed=request.seed, mask=request.mask, options=request.options, epoch=pool_epoch)

        return _run(registry, pool, _Once(idempotency_key, pool_epoch), request, reset)

    @router.post("/{pool}/step", summary="Step every row", response_model=BatchAnswer, responses=_NOT_STEPPED)
    def step_pool(pool: str, request: StepRequest, idempotency_key: Key = None, pool_epoch: Epoch = None) -> Response:
        def step() -> Batch:
            return registry.step(pool, request.actions, epoch=pool_epoch)

        return _run(registry, pool, _Once(idempotency_key, pool_epoch), request, step)

    return router


class _Once(NamedTuple):
    """What a request says so that it is not run twice."""

    key: str | None
    epoch: int | None


def _run(
    registry: Registry,
    pool: str,
    once: _Once,
    request: ResetRequest | StepRequest,
    run: Callable[[], Batch],
) -> Response:
    """Answer with what a step or reset gives; with a key, the same request is run once."""
    if once.key is None:
        return JsonResponse(batch_to_json(run()))
    digest = digest_of_request(type(request).__name__, to_json(request.model_dump()))
    batch, was_there = registry.run_once(pool, once.key, digest, run, once.epoch)
    return JsonResponse(batch_to_json(batch), headers={"Idempotency-Replayed": "true"} if was_there else None)
