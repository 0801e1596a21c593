"""What the registry answers: values inside the server, turned into JSON only at the HTTP edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vecserver.pools.handshake import HostReady
from vecserver.wire.messages import PoolInfo

if TYPE_CHECKING:
    import numpy as np

    from vecserver.pools.spec import PoolSpec
    from vecserver.pools.store import DurablePool
    from vecserver.wire.messages import Stats

__all__ = ["Batch", "PoolView", "unmade"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One result of a pool.

    Attributes:
        observations: In the structure of the batched observation space, numpy arrays with N rows.
        rewards: float64 [N]; None after a reset.
        terminated: bool [N]; None after a reset.
        truncated: bool [N]; None after a reset.
        infos: Gymnasium's merged infos.
    """

    observations: Any
    rewards: np.ndarray[Any, Any] | None
    terminated: np.ndarray[Any, Any] | None
    truncated: np.ndarray[Any, Any] | None
    infos: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as its registry sees it now.

    Attributes:
        pool: Its id.
        spec: What it was made from.
        state: ``ready``, ``broken`` (cannot step; ``reason`` says why), or ``lost`` (its host process is
            gone) or ``silent`` (the host does not answer).
        reason: Why it is not ready; empty when it is.
        endpoints: Transport → address: ZeroMQ's for ``tcp`` and ``ipc``, and of a plain Unix socket for ``shm``, where
            the arena can be lent.
        epoch: The pool's incarnation.
        created: Seconds since the epoch, for people.
        creation_s: Seconds it took to make.
        host_pid: Process id of its host.
        info: Its spaces, layout and limits.
        arena_bytes: Size of its shared memory.
        stats: Its counters; None when its host does not answer.
        durable: Whether it is made again, with a new epoch, when its host has ended and when the server starts again.
        restarts: How often its host was made again since the server started.
        last_loss: How the host before the present one ended; empty where there was none.
        exitcode: How its host ended, negative for a signal; None while it runs, and of a pool that has had none.
    """

    pool: str
    spec: PoolSpec
    state: str
    reason: str
    endpoints: dict[str, str]
    epoch: int
    created: float
    creation_s: float
    host_pid: int
    info: PoolInfo
    arena_bytes: int
    stats: Stats | None
    durable: bool = False
    restarts: int = 0
    last_loss: str = ""
    exitcode: int | None = None


def unmade(pool: DurablePool) -> HostReady:
    """What is known of a pool that was never made: its options, and no spaces."""
    spec = pool.spec
    info = PoolInfo(
        pool=pool.name,
        env_id=spec.env_id,
        num_envs=spec.num_envs,
        autoreset_mode=spec.autoreset_mode,
        observation_space={},
        action_space={},
        layout={},
        layout_hash=0,
        metadata={},
        render_mode=spec.render_mode,
        engine=spec.engine,
        workers=spec.workers or 0,
        step_timeout=spec.step_timeout,
        lease_ttl=spec.lease_ttl,
        max_request=0,
    )
    return HostReady(info, {}, 0, 0)
