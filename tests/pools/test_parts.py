"""Parts of a pool as its host has them."""

from __future__ import annotations

import os

import pytest

from tests.environments import env_id
from vecserver.pools.host import Host
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire import messages
from vecserver.wire.errors import CapExceeded


def test_the_arenas_of_parts_count_as_the_pools_own():
    """A pool that would be more than the server allows is not split, and goes on whole."""
    caps = Caps(max_arena_bytes=200_000)
    host = Host("p", PoolSpec(env_id=env_id("Count-v0"), num_envs=4, workers=2), caps)
    try:
        abort, ours = os.pipe()
        host.start(30.0, abort)
        assert host.arena_bytes < 200_000 < 2 * host.arena_bytes
        with pytest.raises(CapExceeded, match="max_arena_bytes") as refused:
            host.begin_split(2)
        assert refused.value.details["asked"] > 200_000
        assert not host.parts
        host.begin_reset(messages.Reset())
        assert host.watch(30.0)
        assert host.collect().error is None
    finally:
        host.stop(5.0)
        os.close(abort)
        os.close(ours)
