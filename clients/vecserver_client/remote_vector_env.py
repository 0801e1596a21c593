"""``RemoteVectorEnv``: the vector environment over a pool of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium

from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import TransportUnavailable, VersionMismatch
from vecserver.wire.layout import Layout
from vecserver.wire.spaces import space_from_json
from vecserver.wire.stacks import FEATURE, StackFormat
from vecserver_client.link import PoolLink
from vecserver_client.shm import ShmLink
from vecserver_client.vector_env import ArenaVectorEnv, Pending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gymnasium.spaces import Space

    from vecserver.wire import messages
    from vecserver_client.bodies import BodyRing
    from vecserver_client.borrowed import BorrowedArena
    from vecserver_client.link import ResumableMessenger

__all__ = ["RemoteVectorEnv"]


class RemoteVectorEnv(ArenaVectorEnv):
    """Drives a pool of a server; made by ``make_vec`` and ``attach``.

    Args:
        connection: An attached connection.
        attached: The pool's answer to the attach.
        transport: Name of the transport, for people.
        release: As ``ArenaVectorEnv``'s: removes what was made for it.
        arena: The pool's, where it is on loan to this process: it is then stepped there.
        bodies: The memory that the connection receives bodies into, where observations are not to be copied; None
            where everything that is returned is to be the caller's own.
        dedup: ``frames`` to have stacks of frames packed where they travel.

    Raises:
        VersionMismatch: The pool lays out its slots in another way than this release.
    """

    def __init__(
        self,
        connection: ResumableMessenger,
        attached: messages.Attached,
        transport: str,
        release: Callable[[bool], None],
        arena: BorrowedArena | None = None,
        bodies: BodyRing | None = None,
        dedup: str | None = None,
    ) -> None:
        info = attached.info
        rows, action_space = _described(info)
        layout = Layout.of(rows[0], info.num_envs)
        actions = ActionFormat(action_space, info.num_envs)
        stacks = StackFormat.of(layout, rows[0]) if dedup else None
        offered = arena is None and FEATURE in attached.features
        pool_link = PoolLink(connection, layout, actions, info.workers, bodies, stacks if offered else None)
        link = pool_link if arena is None else ShmLink(pool_link, arena, layout, actions, copy=bodies is None)
        super().__init__(
            link,
            release,
            num_envs=info.num_envs,
            spaces=(rows, action_space),
            metadata=info.metadata,
            autoreset_mode=info.autoreset_mode,
            render_mode=info.render_mode,
            step_timeout=info.step_timeout,
            divisible=link,
        )
        self.pool = info.pool
        self.transport = transport
        self.spec = gymnasium.registry.get(info.env_id)
        self._pool_link = pool_link
        self._messenger = connection
        if (taken_up := connection.pending_kind) is not None:  # of the process whose place this one takes
            self._pending = Pending[taken_up.name]
        if layout.hash != info.layout_hash:
            self._finalizer()
            raise VersionMismatch("the pool lays out its results in another way: install the same release on both ends")

    @property
    def resume_token(self) -> str:
        """Where this driver is: with it ``attach`` goes on in another process when this one is gone.

        It may be one call old: a call begun since it was taken, answered or not, is pending in that process.

        Raises:
            TransportUnavailable: Over shm, where steps have no numbers.
        """
        if self.transport == "shm":
            raise TransportUnavailable("steps over shm have no numbers to go on with: drive over ipc, tcp or ws")
        return str(self._messenger.point)

    def stats(self) -> messages.Stats:
        """The pool's counters: batches, environment steps, episodes, memory."""
        self._check_free("stats")
        return self._pool_link.stats(self.step_timeout)


def _described(info: messages.PoolInfo) -> tuple[Sequence[Space[Any]], Space[Any]]:
    rows = info.row_observation_spaces or [info.observation_space]
    return [space_from_json(space) for space in rows], space_from_json(info.action_space)
