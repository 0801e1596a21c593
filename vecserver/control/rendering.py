"""Results of pools as JSON answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

from vecserver.wire.json_values import to_json

if TYPE_CHECKING:
    from vecserver.pools.results import Batch

__all__ = ["JsonResponse", "batch_to_json"]


def batch_to_json(batch: Batch) -> bytes:
    """One result as JSON; Gymnasium's masks stay beside the infos they belong to (``_key`` beside ``key``)."""
    return to_json(
        {
            "observations": batch.observations,
            "rewards": batch.rewards,
            "terminated": batch.terminated,
            "truncated": batch.truncated,
            "infos": batch.infos,
        }
    )


class JsonResponse(Response):
    """A response whose content is JSON bytes already."""

    media_type = "application/json"
