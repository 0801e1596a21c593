"""Which infos leave a worker: decided here, so that what nobody reads is neither encoded nor sent."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vecserver.engine.finals import final_info
from vecserver.engine.lost import ENV_FAILURE
from vecserver.wire.infos import EPISODE_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vecserver.engine.channel import Lost

__all__ = ["ALL_INFOS", "InfoOptions", "claims_of_episode", "key_filter"]

RowInfo = tuple[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class InfoOptions:
    """What a pool's batches tell beside observations, rewards and flags.

    Attributes:
        info: ``all``, ``none``, ``episode`` (none but the episode statistics), or the environments' keys to send.
        episode_statistics: Send the return, length and time of each episode that ended.
        lost: What became of the rows, where others had them before: ``env_failure`` is sent whatever ``info`` says.
    """

    info: str | list[str] = "all"
    episode_statistics: bool = False
    lost: Lost | None = None

    @property
    def sends_statistics(self) -> bool:
        """Whether episode statistics are kept."""
        return self.episode_statistics or self.info == "episode"

    @property
    def keys(self) -> frozenset[str] | None:
        """The top-level keys of the environments' infos that are sent; None for all."""
        always = frozenset() if self.lost is None else frozenset({ENV_FAILURE})
        if isinstance(self.info, str):
            return None if self.info == "all" else always
        return always.union(self.info)

    @property
    def sends_final_info(self) -> bool:
        """Whether ``final_info`` is sent; ``final_obs`` always is, as a trainer bootstraps from it."""
        return self.info == "all" or not isinstance(self.info, str)

    def final(self) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
        """Make the function from the last observation and info of an episode to the entry for it.

        Both are copied before the reset that follows: an environment may reuse its buffers.
        """
        if not self.sends_final_info:
            return lambda observation, _: {"final_obs": deepcopy(observation)}
        pick = key_filter(self.keys)
        return lambda observation, info: {
            "final_obs": deepcopy(observation),
            "final_info": final_info(pick(info)),
        }

    def rows(self) -> Callable[[list[RowInfo], list[int]], list[RowInfo]] | None:
        """Make the function that takes a batch's infos, and which of them are entries of ``final``, and keeps some.

        None where all are kept.
        """
        keys = self.keys
        if keys is None:
            return None
        if not keys:
            return lambda infos, finals: [infos[i] for i in finals]
        pick = key_filter(keys)

        def keep(infos: list[RowInfo], finals: list[int]) -> list[RowInfo]:
            picked = [(row, pick(info)) for row, info in infos]
            for i in finals:
                picked[i] = infos[i]
            return [entry for entry in picked if entry[1]]

        return keep


ALL_INFOS: Final = InfoOptions()
"""What a pool sends unless it is told otherwise."""

_CLAIM: Final = ValueError(
    "the environment's infos have the key 'episode', where the episode statistics go: leave the statistics out "
    "(episode_statistics), or the key (info=[…], or the wrapper that writes it)"
)


def key_filter(keys: frozenset[str] | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Make the function that keeps some keys of an info, in the info's order; None for all of them."""
    if keys is None:
        return lambda info: info
    return lambda info: {key: info[key] for key in info if key in keys}


def claims_of_episode(infos: Iterable[RowInfo]) -> list[tuple[int, ValueError]]:
    """The rows whose infos have a key that the episode statistics need, each with the error to report."""
    return [(row, _CLAIM) for row, info in infos if not info.keys().isdisjoint(EPISODE_KEYS)]
