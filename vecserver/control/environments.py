"""The environments that a pool can be made of: those registered in this process that its operator allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import gymnasium
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from vecserver.control.problems import problems
from vecserver.wire.errors import InvalidSpec

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from vecserver.pools.rules import EnvRules

__all__ = ["EnvAnswer", "EnvList", "environment_routes"]


class EnvAnswer(BaseModel):
    """A registered environment."""

    id: str
    namespace: str | None
    entry_point: str | None = Field(description="`module:attribute`")
    max_episode_steps: int | None

    @classmethod
    def of(cls, spec: EnvSpec) -> EnvAnswer:
        """One entry of Gymnasium's registry."""
        entry = spec.entry_point
        if callable(entry):
            entry = f"{entry.__module__}:{getattr(entry, '__qualname__', type(entry).__qualname__)}"
        return cls(id=spec.id, namespace=spec.namespace, entry_point=entry, max_episode_steps=spec.max_episode_steps)


class EnvQuery(BaseModel):
    """Which of them are wanted."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field("", description="A part of the id, whatever its case")


class EnvList(BaseModel):
    """Registered environments, in the order of their ids."""

    envs: list[EnvAnswer]


def registered_envs(rules: EnvRules, query: str) -> EnvList:
    """The allowed environments whose id contains a text, whatever its case."""
    matching = (known for known in rules.offered() if query.lower() in known.lower())
    return EnvList(envs=[EnvAnswer.of(gymnasium.registry[known]) for known in matching])


def environment_routes(rules: EnvRules) -> APIRouter:
    """The route that lists environments.

    Args:
        rules: Which are allowed.
    """
    router = APIRouter(prefix="/v1", tags=["environments"])

    @router.get(
        "/envs", summary="List the registered environments that are allowed here", responses=problems(InvalidSpec)
    )
    def list_envs(asked: Annotated[EnvQuery, Query()]) -> EnvList:
        return registered_envs(rules, asked.q)

    return router
