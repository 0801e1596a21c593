"""Many OpenEnv sessions at once: this server and OpenEnv's own, in turn, under the same client.

::

    make openenv-check                                             # makes .venv-openenv-0.10.0
    .venv-openenv-0.10.0/bin/python -m pip install gymnasium
    python -m benchmarks.openenv_sessions --sessions 256

Each round opens the sessions, steps CartPole-v1 in all of them as fast as answers come, and closes them. Client and
server share the machine's cores, as they do for a trainer on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import httpx
from websockets.asyncio.client import connect

THEIRS: Final = Path(__file__).resolve().parent.parent / ".venv-openenv-0.10.0" / "bin" / "python"
START_S: Final = 60.0
OPEN_S: Final = 60.0

THEIR_SERVER: Final = textwrap.dedent("""
    import sys
    from typing import Any

    import gymnasium
    import uvicorn
    from openenv.core.env_server.http_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State

    class GymAction(Action):
        action: Any

    class GymObservation(Observation):
        state: Any = None
        legal_actions: Any = None
        episode_length: int = 0
        total_reward: float = 0.0

    class CartPole(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self):
            super().__init__()
            self.env = gymnasium.make("CartPole-v1")
            self.count, self.total = State(), 0.0

        def reset(self, seed=None, episode_id=None, **_):
            state, _ = self.env.reset(seed=seed)
            self.count, self.total = State(episode_id=episode_id), 0.0
            return GymObservation(state=state.tolist(), legal_actions=[0, 1])

        def step(self, action, **_):
            state, reward, terminated, truncated, _ = self.env.step(action.action)
            self.count.step_count += 1
            self.total += reward
            return GymObservation(
                state=state.tolist(), legal_actions=[0, 1], episode_length=self.count.step_count,
                total_reward=self.total, done=terminated or truncated, reward=reward,
            )

        @property
        def state(self):
            return self.count

    app = create_app(CartPole, GymAction, GymObservation, max_concurrent_envs=int(sys.argv[2]))
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
""")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one server did in one round: steps a second, and the 99th percentile of a step's time in milliseconds."""

    rate: float
    p99_ms: float


async def play(port: int, sessions: int, seconds: float) -> Turn:
    """Open sessions, step them all, close them."""
    ready, go, stop = asyncio.Semaphore(0), asyncio.Event(), asyncio.Event()
    times: list[float] = []

    async def one(number: int) -> None:
        address = f"ws://127.0.0.1:{port}/ws"
        async with connect(address, compression=None, proxy=None, open_timeout=OPEN_S) as ws:
            await ws.send('{"type": "reset", "data": {}}')
            await ws.recv()
            ready.release()
            await go.wait()
            while not stop.is_set():
                number += 1
                began = time.perf_counter()
                await ws.send(f'{{"type": "step", "data": {{"action": {number & 1}}}}}')
                answer = await ws.recv()
                times.append(time.perf_counter() - began)
                if '"done":true' in answer:
                    await ws.send('{"type": "reset", "data": {}}')
                    await ws.recv()

    async with asyncio.TaskGroup() as group:
        for number in range(sessions):
            group.create_task(one(number))
        for _ in range(sessions):
            await ready.acquire()
        began = time.perf_counter()
        go.set()
        await asyncio.sleep(seconds)
        rate = len(times) / (time.perf_counter() - began)
        stop.set()
    times.sort()
    return Turn(rate, 1000 * times[int(0.99 * len(times))])


def start(stack: ExitStack, *command: str) -> None:
    """Run a server until the stack ends."""
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    stack.callback(process.terminate)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def await_health(port: int) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).raise_for_status()
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def main() -> None:
    """Measure both in turn; print each round, and the medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openenv_sessions", description=__doc__)
    parser.add_argument("--sessions", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--openenv-python", type=Path, default=THEIRS, help="has openenv and gymnasium")
    options = parser.parse_args()
    ours, theirs, sessions = free_port(), free_port(), str(options.sessions)
    with ExitStack() as stack:
        serve = ("serve", "--port", str(ours), "--log-level", "error", "--openenv-sessions", sessions)
        start(stack, sys.executable, "-m", "vecserver", *serve)
        start(stack, str(options.openenv_python), "-c", THEIR_SERVER, str(theirs), sessions)
        found: dict[int, list[Turn]] = {ours: [], theirs: []}
        for port in found:
            await_health(port)
        for _ in range(options.rounds):
            for port, turns in found.items():
                turns.append(asyncio.run(play(port, options.sessions, options.seconds)))
            mine, other = found[ours][-1], found[theirs][-1]
            print(
                f"vecserver {mine.rate:6.0f} steps/s, p99 {mine.p99_ms:4.0f} ms   "
                f"OpenEnv {other.rate:6.0f} steps/s, p99 {other.p99_ms:4.0f} ms   ratio {mine.rate / other.rate:.2f}",
                flush=True,
            )
        ratios = [mine.rate / other.rate for mine, other in zip(found[ours], found[theirs], strict=True)]
        worst = max(turn.p99_ms for turn in found[ours])
        print(
            f"{options.sessions} sessions, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}: median ratio "
            f"{median(ratios):.2f}, worst p99 {worst:.0f} ms"
        )


if __name__ == "__main__":
    main()
