"""What is concluded from what a server says of a pool: that it is gone, or is not the one that was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vecserver.wire.errors import (
    PoolLost,
    PoolStopping,
    ServerUnreachable,
    TransportUnavailable,
    UnknownPool,
    VecServerError,
)

if TYPE_CHECKING:
    from vecserver.wire import messages

__all__ = ["check_epoch", "check_not_lost", "verdict_on_pool"]


def check_not_lost(pool: dict[str, Any]) -> None:
    """Make sure that a pool has a host, before anybody looks for it.

    Raises:
        PoolLost: It has none; says why, and when a durable one is made again.
    """
    if pool["state"] == "lost":
        raise PoolLost(f"pool {pool['pool']} is lost: {pool['reason']}", pool=pool["pool"])


def verdict_on_pool(answer: dict[str, Any] | VecServerError, pool: str, epoch: str, url: str) -> VecServerError | None:
    """What the server's answer about a silent pool means: PoolLost or UnknownPool where it is known to be gone.

    Args:
        answer: The pool as ``ControlClient.get_pool`` gives it, or the error that it raised.
        pool: Its id.
        epoch: The incarnation that is asked about.
        url: The server's address.
    """
    match answer:
        case UnknownPool():
            return answer
        case PoolStopping():
            return PoolLost(f"pool {pool} is lost with its episodes: {answer.message}", pool=pool)
        case ServerUnreachable(details={"refused": True}):  # otherwise it may be the network
            return PoolLost(f"the server at {url} is gone, and pool {pool} with it", pool=pool)
        case {"state": "lost", "reason": reason}:
            return PoolLost(f"pool {pool} is lost with its episodes: {reason}", pool=pool)
        case {"epoch": other, "last_loss": reason} if other != epoch:
            return PoolLost(
                f"pool {pool} was lost with its episodes, and made again: attach again. {reason}".rstrip(), pool=pool
            )
    return None  # it lives, or the trouble is the control plane's own


def check_epoch(attached: messages.Attached, pool: dict[str, Any], endpoint: str) -> None:
    """Make sure that the pool that answers is the one that was meant.

    Raises:
        TransportUnavailable: It is not: where only the HTTP port is forwarded, this machine may have another there.
    """
    if str(attached.epoch) != pool["epoch"]:
        raise TransportUnavailable(f"another pool answers at {endpoint}")
