"""A training run that goes on while its workers, its network and the trainer itself are killed in turn.

    python examples/survive.py

This process starts a server with a pool of CartPole-v1, a relay before its port, and a trainer (PPO, `ppo_numpy.py`)
that drives the pool through the relay. Then it kills a worker, cuts every connection, kills the trainer, and begins
again. The trainer writes each batch down before it learns from it, and its state after each update; its next life goes
on from there with the token that the last one has left. So no step is lost and none is taken twice.

At the end the same training runs again in one process, without server, network or kills: it must have the same
episodes, the same returns and the same networks, to the bit. The only thing it is told is where a worker has died: the
worker's rows come back truncated, and that is a part of what is learned from. Exit status 0 if all is the same, else 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from ppo_numpy import Adam, Runner, learn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENV_ID = "CartPole-v1"
NUM_ENVS = 16
WORKERS = 2
SEED = 1
EVERY = 4  # updates between one thing that is killed and the next
OUTAGE_S = 0.3


class Batch(NamedTuple):
    """What one step returned, and which workers' rows were lost with it."""

    results: tuple[Any, ...]
    lost: tuple[int, ...]


class Journal:
    """What a trainer has to know when it is started again: its state, and each batch and token since."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.state: dict[str, Any] | None = None
        self.batches: deque[Batch] = deque()
        self.token: str | None = None
        newest = max(directory.glob("*.state"), default=None, key=lambda path: int(path.stem))
        if newest is not None:
            self.state = pickle.loads(newest.read_bytes())  # noqa: S301 - its own
            self.token = self.state["token"]
        self._log = self._open(0 if newest is None else int(newest.stem))

    def _open(self, update: int) -> Any:
        log = (self._directory / f"{update}.batches").open("ab+")
        log.seek(0)
        whole = 0
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # the last entry may have been cut off
            while True:
                batch, self.token = pickle.load(log)  # noqa: S301 - its own
                whole = log.tell()
                if batch is not None:
                    self.batches.append(batch)
        log.truncate(whole)
        return log

    def note(self, batch: Batch | None, token: str) -> None:
        """Write down a batch, or a token alone; what a killed process wrote stays written."""
        self._log.write(pickle.dumps((batch, token)))
        self._log.flush()

    def save(self, update: int, state: dict[str, Any], token: str) -> None:
        """Write down all that the trainer is, after an update."""
        partial = self._directory / "partial"
        partial.write_bytes(pickle.dumps({**state, "token": token}))
        partial.replace(self._directory / f"{update}.state")
        self._log.close()
        self._log = self._open(update)

    def close(self) -> None:
        """Close its file."""
        self._log.close()


class Resumable:
    """A vector environment whose batches are written down, and read again in the trainer's next life."""

    def __init__(self, envs: Any, journal: Journal) -> None:
        self._envs, self._journal = envs, journal
        self.num_envs, self.metadata = envs.num_envs, envs.metadata
        self.single_observation_space = envs.single_observation_space
        self.single_action_space = envs.single_action_space
        self.lost: list[tuple[int, ...]] = []
        journal.note(None, envs.resume_token)

    @property
    def token(self) -> str:
        """By which another process can go on from here."""
        token: str = self._envs.resume_token
        return token

    def reset(self, seed: int) -> Any:
        """Reset everything, in the first life."""
        return self._envs.reset(seed=seed)

    def step(self, actions: Any) -> Any:
        """Step, or learn what the step returned that a former life has taken or begun."""
        if self._journal.batches:
            batch = self._journal.batches.popleft()
        else:
            pending = self._envs.pending_call == "step"
            results = self._envs.step_wait() if pending else self._envs.step(actions)
            rows = np.flatnonzero(results[4].get("_env_failure", np.zeros(self.num_envs, np.bool_)))
            batch = Batch(results[:4], tuple(sorted({int(row) // (self.num_envs // WORKERS) for row in rows})))
            self._journal.note(batch, self.token)
        self.lost.append(batch.lost)
        return *batch.results, {}


class Undisturbed:
    """The same environments in this process, by Gymnasium alone. Rows of workers that died elsewhere end there, too.

    A row that has lost its environment goes on with a new one, whose seed follows from the row's first: see
    docs/reliability.md.
    """

    def __init__(self, lost: list[tuple[int, ...]]) -> None:
        self._envs = [gym.make(ENV_ID) for _ in range(NUM_ENVS)]
        self._lost, self._deaths = iter(lost), [0] * WORKERS
        self.num_envs, self.metadata = NUM_ENVS, {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = self._envs[0].observation_space
        self.single_action_space = self._envs[0].action_space

    def reset(self, seed: int) -> Any:
        """Reset everything."""
        self._seeds: list[int | None] = [None] * NUM_ENVS
        self._seed = seed
        self._over = [False] * NUM_ENVS
        self._seen = [env.reset(seed=seed + row)[0] for row, env in enumerate(self._envs)]
        return np.array(self._seen), {}

    def step(self, actions: Any) -> Any:
        """Step every row, or reset it where its episode was over."""
        lost = next(self._lost, ())
        for worker in lost:
            self._deaths[worker] += 1
        parts = [self._step(row, int(actions[row]), lost) for row in range(NUM_ENVS)]
        observations, rewards, terminated, truncated = zip(*parts, strict=True)
        self._seen, self._over = list(observations), [a or b for a, b in zip(terminated, truncated, strict=True)]
        return np.array(observations), np.array(rewards), np.array(terminated), np.array(truncated), {}

    def _step(self, row: int, action: int, lost: tuple[int, ...]) -> tuple[Any, float, bool, bool]:
        worker = row // (NUM_ENVS // WORKERS)
        if worker in lost:
            new = np.random.SeedSequence(self._seed + row, spawn_key=(self._deaths[worker],))
            self._seeds[row] = int(new.generate_state(1)[0]) >> 1
            if not self._over[row]:
                return self._seen[row], 0.0, False, True
        if self._over[row]:
            seed, self._seeds[row] = self._seeds[row], None
            return self._envs[row].reset(seed=seed)[0], 0.0, False, False
        observation, reward, terminated, truncated, _ = self._envs[row].step(action)
        return observation, float(reward), terminated, truncated


class Training:
    """A run of PPO that can be taken up again."""

    def __init__(self, envs: Any, state: dict[str, Any] | None = None) -> None:
        if state is None:
            self.update, self.lost = 0, []
            self.runner = Runner(envs, SEED)
            self.runner.last_returns = deque()  # all of them
            self.adam = Adam(self.runner.model.params)
        else:
            self.update, self.lost, self.adam = state["update"], state["lost"], state["adam"]
            self.runner = Runner.__new__(Runner)
            vars(self.runner).update(state["runner"], envs=envs)

    @property
    def state(self) -> dict[str, Any]:
        """All that it is, but for its environments."""
        runner = {name: value for name, value in vars(self.runner).items() if name not in ("envs", "env_seconds")}
        return {"update": self.update, "lost": self.lost, "adam": self.adam, "runner": {**runner, "env_seconds": 0.0}}

    def improve(self) -> None:
        """Play one rollout, and learn from it."""
        learn(self.runner.model, self.adam, self.runner.rollout(), self.runner.rng)
        self.update += 1

    @property
    def outcome(self) -> dict[str, Any]:
        """What is compared."""
        runner = self.runner
        networks = b"".join(param.tobytes() for param in runner.model.params)
        return {
            "environment steps": runner.env_steps,
            "episodes": runner.episodes,
            "returns": hashlib.sha256(np.array(runner.last_returns).tobytes()).hexdigest()[:16],
            "networks": hashlib.sha256(networks).hexdigest()[:16],
        }


def train(url: str, pool: str, directory: Path, updates: int) -> None:
    """One life of the trainer: to the end of the training, if nobody kills it."""
    import vecserver_client as vs

    with (
        contextlib.closing(Journal(directory)) as journal,
        contextlib.closing(vs.attach(url, pool, transport="ws", resume=journal.token)) as remote,
    ):
        envs = Resumable(remote, journal)
        training = Training(envs, journal.state)
        if journal.state is None:
            journal.save(0, training.state, envs.token)
        while training.update < updates:
            training.improve()
            training.lost += envs.lost
            envs.lost = []
            journal.save(training.update, training.state, envs.token)
            returns = list(training.runner.last_returns)[-100:]
            print(json.dumps({"update": training.update, "mean": float(np.mean(returns or [0]))}), flush=True)
        print(json.dumps({"outcome": training.outcome, "lost": training.lost}), flush=True)


class Relay:
    """Passes connections on to a port of this machine, until it is cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._down_until = 0.0
        self._ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait()

    def cut(self) -> None:
        """End every connection, and take none for a while."""
        self._down_until = time.monotonic() + OUTAGE_S
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in self._writers])

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await server.serve_forever()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if time.monotonic() < self._down_until:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        self._writers -= {writer, back}

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()


def survive(server: Any, control: Any, directory: Path, updates: int) -> dict[str, Any]:
    """Run the trainer to its end, and kill what it needs all the while; returns its last line."""
    address = urlsplit(server.url)
    relay = Relay(address.port or 80)
    pool = control.create_pool(env_id=ENV_ID, num_envs=NUM_ENVS, workers=WORKERS, restart_budget=None)["pool"]
    dice = random.Random(SEED)  # noqa: S311 - of what dies when

    def kill_worker() -> str:
        pids = control.get_pool(pool)["stats"]["worker_pids"]
        worker = dice.randrange(len(pids))
        os.kill(pids[worker], signal.SIGKILL)
        return f"worker {worker} (pid {pids[worker]})"

    def cut_network() -> str:
        relay.cut()
        return f"the network, for {OUTAGE_S:g} s"

    def kill_trainer() -> str:
        trainer.kill()
        return f"the trainer (pid {trainer.pid})"

    acts: Iterator[Callable[[], str]] = itertools.cycle((kill_worker, cut_network, kill_trainer))
    command = [sys.executable, __file__, "--updates", str(updates), "--trainer"]
    command += [f"http://127.0.0.1:{relay.port}", pool, str(directory)]
    environment = {**os.environ, "VECSERVER_TOKEN": server.token}  # by the address of the relay it is not found
    for life in itertools.count(1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as trainer:
            print(f"life {life} of the trainer begins (pid {trainer.pid})", flush=True)
            assert trainer.stdout is not None
            for line in trainer.stdout:
                said = json.loads(line)
                if "outcome" in said:
                    return {**said, "lives": life, "batches": control.get_pool(pool)["stats"]["batches"]}
                if said["update"] % EVERY == 0 and said["update"] < updates:
                    time.sleep(dice.uniform(0, 0.1))  # somewhere in what comes next
                    act = next(acts)
                    print(f"update {said['update']:3d}, mean return {said['mean']:5.1f}: killed {act()}", flush=True)
        if trainer.returncode != -signal.SIGKILL:
            sys.exit(f"the trainer has failed by itself, with status {trainer.returncode}")
    raise AssertionError


def main() -> None:
    """Survive, run the oracle, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400, help="of the policy; one takes 32 steps of 16 environments")
    parser.add_argument("--trainer", nargs=3, metavar=("URL", "POOL", "DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trainer:
        train(*args.trainer[:2], Path(args.trainer[2]), args.updates)
        return

    from vecserver_client import ControlClient, LocalServer

    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(LocalServer()) as server,
        ControlClient(server.url) as control,
    ):
        survived = survive(server, control, Path(directory), args.updates)
    print("the same again, undisturbed …", flush=True)
    oracle = Training(Undisturbed(survived["lost"]))
    while oracle.update < args.updates:
        oracle.improve()
    steps = len(survived["lost"])
    print(f"{survived['lives']} lives; {steps} batches were asked for, the pool has stepped {survived['batches']}")
    print(f"{sum(map(len, survived['lost']))} workers were replaced")
    same = steps == survived["batches"]
    for name, value in oracle.outcome.items():
        same &= survived["outcome"][name] == value
        print(f"{name:>18}: {survived['outcome'][name]!s:>16}   undisturbed {value!s:>16}")
    print("the same, to the bit" if same else "NOT THE SAME")
    sys.exit(not same)


if __name__ == "__main__":
    main()
