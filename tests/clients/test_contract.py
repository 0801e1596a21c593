"""``RemoteVectorEnv`` keeps Gymnasium's contract over every transport and with every engine."""

from __future__ import annotations

from typing import ClassVar

import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

import vecserver_client as vs
from tests.contract.vector_contract import NEXT_STEP, VectorEnvContract


class RemoteContract(VectorEnvContract):
    """A pool of the module's server."""

    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture(autouse=True)
    def _connect(self, server):
        self.url = server.url

    def make(self, env_id, num_envs, *, autoreset_mode: AutoresetMode = NEXT_STEP, **env_kwargs) -> VectorEnv:
        return vs.make_vec(
            env_id, num_envs, url=self.url, autoreset_mode=autoreset_mode, **self.options, **env_kwargs
        )


class TestTcp(RemoteContract):
    """One message a batch over tcp."""

    options: ClassVar = {"transport": "tcp"}


class TestIpc(RemoteContract):
    """One message a batch over a Unix socket."""

    options: ClassVar = {"transport": "ipc"}


class TestOneWorker(RemoteContract):
    """All rows in one worker."""

    options: ClassVar = {"workers": 1}


class TestSyncEngine(RemoteContract):
    """Gymnasium's SyncVectorEnv in a worker."""

    options: ClassVar = {"engine": "sync"}


class TestAsyncEngine(RemoteContract):
    """Gymnasium's AsyncVectorEnv in a worker: the reference."""

    options: ClassVar = {"engine": "async"}
