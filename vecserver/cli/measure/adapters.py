"""The peers: each makes its vector environment with the setting that its own documentation asks speed of.

Other interpreters run this file, by its path: it imports the standard library, numpy and Gymnasium, and each adapter
its peer alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from functools import partial
from importlib import import_module
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gymnasium
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ADAPTERS", "SEED", "Peer", "make_env"]

SEED: Final = 42

_TRIAL_S: Final = 0.4
"""How long each of a peer's settings is tried, where it has several and which is best depends on the machine."""

_CONNECT_S: Final = 30.0
_KNOCK_S: Final = 0.05


class Peer(NamedTuple):
    """One peer, made and reset.

    Attributes:
        step: Steps a batch of actions; returns how many environment steps that were, rows that were only reset left
            out.
        close: Ends it.
        setting: How it was made, for people.
        settle_s: Seconds without a step after which it costs no processor time.
    """

    step: Callable[[Any], int]
    close: Callable[[], Any]
    setting: str
    settle_s: float = 0.0


class _NextStep:
    """Counts the steps of a peer that resets a row in the step behind its end.

    Args:
        step: Steps a batch; returns which rows terminated and which were truncated.
        rows: Rows of a batch.
    """

    def __init__(self, step: Callable[[Any], tuple[Any, Any]], rows: int) -> None:
        self._step = step
        self._rows = rows
        self._over = np.zeros(rows, np.bool_)

    def __call__(self, actions: Any) -> int:
        terminated, truncated = self._step(actions)
        counted = self._rows - int(np.count_nonzero(self._over))
        self._over = np.logical_or(terminated, truncated)
        return counted


def make_env(env_id: str) -> gymnasium.Env[Any, Any]:
    """One environment, as a pool makes it."""
    if env_id.startswith("ALE/"):
        import_module("ale_py")  # registers them
    return gymnasium.make(env_id)


def _gymnasium(kind: str, env_id: str, rows: int, _batches: list[Any]) -> Peer:
    envs = getattr(gymnasium.vector, kind)([partial(make_env, env_id)] * rows)
    envs.reset(seed=SEED)
    return Peer(_NextStep(lambda actions: envs.step(actions)[2:4], rows), envs.close, "its defaults")


def _native(env_id: str, rows: int, _batches: list[Any]) -> Peer:
    """The environment's own vector environment: what a pool with engine ``native`` runs, with nothing in between."""
    envs = gymnasium.make_vec(env_id, rows, vectorization_mode="vector_entry_point")
    envs.reset(seed=SEED)
    setting = f"{type(envs.unwrapped).__name__}, in one process"
    return Peer(_NextStep(lambda actions: envs.step(actions)[2:4], rows), envs.close, setting)


def _sb3(env_id: str, rows: int, _batches: list[Any]) -> Peer:
    vec_env = import_module("stable_baselines3.common.vec_env")
    # forks: as quick to step as other ways to start, which load PyTorch once a row
    envs = vec_env.SubprocVecEnv([partial(make_env, env_id)] * rows, start_method="fork")
    envs.seed(SEED)
    envs.reset()

    def step(actions: Any) -> int:
        envs.step(actions)  # resets rows in the same step
        return rows

    return Peer(step, envs.close, f"{rows} processes")


def _pufferlib(env_id: str, rows: int, batches: list[Any]) -> Peer:
    """Its ``Multiprocessing``, with whichever of its settings is quickest here."""
    trials = {setting: _puffer(env_id, rows, *setting) for setting in _puffer_settings(rows)}
    rates = {setting: _rate(peer, batches) for setting, peer in trials.items()}
    best = max(rates, key=lambda setting: rates[setting])
    for setting, peer in trials.items():
        if setting != best:
            peer.close()
    return trials[best]


def _puffer_settings(rows: int) -> Iterator[tuple[int, int]]:
    """Workers and parts of a batch: a worker a core, or one core left to the program; one batch, or two in turns."""
    cores = len(os.sched_getaffinity(0))
    for workers in sorted({min(cores, rows), max(1, min(cores - 1, rows))}):
        if rows % workers == 0:
            yield workers, 1
            if workers % 2 == 0:
                yield workers, 2


def _puffer(env_id: str, rows: int, workers: int, parts: int) -> Peer:
    vector, emulation = import_module("pufferlib.vector"), import_module("pufferlib.emulation")
    batch = rows // parts
    envs = vector.make(
        partial(emulation.GymnasiumPufferEnv, env_creator=partial(make_env, env_id)),
        backend=vector.Multiprocessing,
        num_envs=rows,
        num_workers=workers,
        batch_size=batch,
        overwork=True,  # it counts no hyperthreads
        seed=SEED,
    )
    envs.async_reset(SEED)
    over = np.zeros(rows, np.bool_)
    at = envs.recv()[6]  # the rows whose turn it is

    def step(actions: Any) -> int:
        nonlocal at
        counted = 0
        for _ in range(parts):
            envs.send(actions[at])
            _, _, terminated, truncated, _, _, at, _ = envs.recv()
            counted += batch - int(np.count_nonzero(over[at]))
            over[at] = np.logical_or(terminated, truncated)
        return counted

    turns = "" if parts == 1 else f", {parts} parts in turns"
    # its workers look without a pause for half a second, and then every 10 ms
    return Peer(step, envs.close, f"Multiprocessing, {workers} workers{turns}", settle_s=0.6)


def _rate(peer: Peer, batches: list[Any]) -> float:
    steps, began = 0, perf_counter()
    while (now := perf_counter()) < began + _TRIAL_S:
        for actions in batches[:8]:
            steps += peer.step(actions)
    return steps / (now - began)


def _envpool(env_id: str, rows: int, _batches: list[Any]) -> Peer:
    threads = min(len(os.sched_getaffinity(0)), rows)
    envs = import_module("envpool").make(
        env_id, env_type="gymnasium", num_envs=rows, batch_size=rows, num_threads=threads, seed=SEED
    )
    envs.reset()

    def step(actions: Any) -> tuple[Any, Any]:
        assert len(actions) == rows  # a batch that does not fit ends the whole process
        _, _, terminated, truncated, _ = envs.step(actions)
        return terminated, truncated

    return Peer(_NextStep(step, rows), envs.close, f"environments of its own in C++, {threads} threads")


def _rlmesh(env_id: str, rows: int, _batches: list[Any]) -> Peer:
    """One served ``SyncVectorEnv``: over ``AsyncVectorEnv`` it serves light environments slower."""
    clients = import_module("rlmesh.numpy")
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix://{folder}/peer.sock"
        server = _served("_serve_rlmesh", env_id, str(rows), address)
        envs = _eventually(server, lambda: clients.RemoteVectorEnv(address))
    envs.reset(seed=SEED)

    def close() -> None:
        envs.close()
        server.kill()
        server.wait()

    setting = "a SyncVectorEnv served over a Unix socket"
    return Peer(_NextStep(lambda actions: envs.step(actions)[2:4], rows), close, setting)


def _serve_rlmesh(env_id: str, rows: str, address: str) -> None:
    envs = gymnasium.vector.SyncVectorEnv([partial(make_env, env_id)] * int(rows))
    import_module("rlmesh").EnvServer(envs, address).serve()


def _openenv(env_id: str, rows: int, _batches: list[Any]) -> Peer:
    """A server with a session a row, and its own client of each, asked together."""
    core = import_module("openenv.core")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = _served("_serve_openenv", env_id, str(rows), str(port))
    _eventually(server, lambda: socket.create_connection(("127.0.0.1", port)).close())
    loop = asyncio.new_event_loop()
    clients = [core.GenericEnvClient(base_url=f"http://127.0.0.1:{port}") for _ in range(rows)]

    async def reset_all() -> None:
        await asyncio.gather(*(client.connect() for client in clients))
        await asyncio.gather(*(client.reset(seed=SEED + row) for row, client in enumerate(clients)))

    async def step_row(client: Any, action: Any) -> None:
        if (await client.step({"action": action})).done:
            await client.reset()  # it never does so by itself

    async def step_all(actions: Any) -> None:
        await asyncio.gather(*map(step_row, clients, actions))

    async def close_all() -> None:
        await asyncio.gather(*(client.close() for client in clients))

    def step(actions: Any) -> int:
        loop.run_until_complete(step_all(actions.tolist()))
        return rows

    def close() -> None:
        loop.run_until_complete(close_all())
        loop.close()
        server.kill()
        server.wait()

    loop.run_until_complete(reset_all())
    return Peer(step, close, f"{rows} WebSocket sessions of one server")


def _serve_openenv(env_id: str, rows: str, port: str) -> None:
    server = import_module("openenv.core.env_server")
    types = import_module("openenv.core.env_server.types")
    fields = {"__annotations__": {"action": Any}}
    action = type("GymAction", (types.Action,), fields)
    observation = type("GymObservation", (types.Observation,), {"__annotations__": {"state": Any}})

    class GymEnvironment(server.Environment):  # type: ignore[misc, name-defined]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._env = make_env(env_id)
            self._state = types.State()

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_options: Any) -> Any:
            state, _ = self._env.reset(seed=seed)
            self._state = types.State(episode_id=episode_id, step_count=0)
            return observation(state=state.tolist(), done=False, reward=None)

        def step(self, action: Any, timeout_s: float | None = None, **_options: Any) -> Any:
            del timeout_s
            state, reward, terminated, truncated, _ = self._env.step(np.asarray(action.action))
            self._state.step_count += 1
            return observation(state=state.tolist(), done=bool(terminated or truncated), reward=float(reward))

        @property
        def state(self) -> Any:
            return self._state

    app = server.create_fastapi_app(GymEnvironment, action, observation, max_concurrent_envs=int(rows))
    import_module("uvicorn").run(app, host="127.0.0.1", port=int(port), log_level="warning")


def _served(serve: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A server of a peer in a process of its own: this file, told which."""
    return subprocess.Popen([sys.executable, "-W", "ignore", __file__, serve, *arguments], stdin=subprocess.DEVNULL)  # noqa: S603


def _eventually(server: subprocess.Popen[bytes], connect: Callable[[], Any]) -> Any:
    deadline = monotonic() + _CONNECT_S
    while True:
        try:
            return connect()
        except Exception:  # each peer has errors of its own for a server that is not there yet
            if server.poll() is not None or monotonic() > deadline:
                server.kill()
                raise
            sleep(_KNOCK_S)


ADAPTERS: Final[dict[str, Callable[[str, int, list[Any]], Peer]]] = {
    "async": partial(_gymnasium, "AsyncVectorEnv"),
    "sync": partial(_gymnasium, "SyncVectorEnv"),
    "native": _native,
    "sb3": _sb3,
    "pufferlib": _pufferlib,
    "envpool": _envpool,
    "rlmesh": _rlmesh,
    "openenv": _openenv,
}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    {"_serve_rlmesh": _serve_rlmesh, "_serve_openenv": _serve_openenv}[sys.argv[1]](*sys.argv[2:])
