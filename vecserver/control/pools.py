"""The routes of pools. Each parses, calls one method of the registry, and answers.

They are plain functions, which FastAPI runs in threads, because the registry waits for hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Response

from vecserver.control.models import (
    BatchAnswer,
    PoolAnswer,
    PoolList,
    PoolRequest,
    ResetRequest,
    StatsAnswer,
    StepRequest,
)
from vecserver.control.problems import problems
from vecserver.control.rendering import JsonResponse, batch_to_json
from vecserver.wire.errors import (
    CapExceeded,
    DeadlineExceeded,
    EnvCreationFailed,
    EnvFault,
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
    StateUnavailable,
    UnknownEnv,
    UnknownPool,
    UnsupportedSpace,
)

if TYPE_CHECKING:
    from vecserver.pools.registry import Registry

__all__ = ["pool_routes"]

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
        responses=problems(UnknownPool, StateUnavailable),
    )
    def delete_pool(pool: str, *, force: Force = False) -> None:
        registry.delete(pool, force=force)

    @router.get(
        "/{pool}/stats", summary="A pool's counters", responses=problems(UnknownPool, PoolLost, DeadlineExceeded)
    )
    def pool_stats(pool: str) -> StatsAnswer:
        return StatsAnswer.of(registry.get(pool))

    @router.post("/{pool}/reset", summary="Reset rows", response_model=BatchAnswer, responses=_NOT_STEPPED)
    def reset_pool(pool: str, request: ResetRequest) -> Response:
        batch = registry.reset(pool, seed=request.seed, mask=request.mask, options=request.options)
        return JsonResponse(batch_to_json(batch))

    @router.post("/{pool}/step", summary="Step every row", response_model=BatchAnswer, responses=_NOT_STEPPED)
    def step_pool(pool: str, request: StepRequest) -> Response:
        return JsonResponse(batch_to_json(registry.step(pool, request.actions)))

    return router
