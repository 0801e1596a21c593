"""A server of OpenEnv's sessions in a thread of this process, and words for talking to it."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager

import uvicorn
from websockets.sync.client import connect

from tests.control.fakes import FakeRegistry
from vecserver.control.app import create_app
from vecserver.control.guards import MAX_BODY_BYTES
from vecserver.control.openenv.sessions import SessionOptions, Sessions
from vecserver.serve import _listen, _Server

PATIENCE_S = 30.0
HARMFUL = "tests.openenv.harmful_environments:harmful/"
"""Before the name of an environment that misbehaves."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Served:
    """A server that runs.

    Attributes:
        url: Its address.
        sessions: Its sessions.
        clock: Their clock.
    """

    def __init__(self, url: str, sessions: Sessions, clock: Clock, loops: list) -> None:
        self.url, self.sessions, self.clock, self._loops = url, sessions, clock, loops

    def pass_time(self, seconds: float) -> None:
        """Let time pass and have the sessions looked through."""
        self.clock.now += seconds
        self.in_loop(self.sessions.sweep)

    def wait_for(self, count: int) -> None:
        """Wait until there are so many sessions."""
        deadline = time.monotonic() + PATIENCE_S
        while self.in_loop(lambda: len(self.sessions)) != count:
            assert time.monotonic() < deadline

    def in_loop(self, call):
        """Run a function where the sessions live; gives what it returns."""
        done, box = threading.Event(), []
        self._loops[0].call_soon_threadsafe(lambda: (box.append(call()), done.set()))
        assert done.wait(PATIENCE_S)
        return box[0]


@contextmanager
def serving(**options):
    """Runs a server, and leaves nothing behind."""
    import asyncio

    clock, loops, ready = Clock(), [], threading.Event()
    sessions = Sessions(SessionOptions(**options), clock)
    listener = _listen("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(FakeRegistry(), sessions),
        log_config=None,
        lifespan="off",
        loop="asyncio",  # this and the next as vecserver.serve has them, whatever else is installed
        http="h11",
        ws_per_message_deflate=False,
        ws_max_size=MAX_BODY_BYTES,
    )

    def on_ready():
        loops.append(asyncio.get_running_loop())
        ready.set()

    server = _Server(config, on_ready=on_ready, on_stop=sessions.stop, drain=lambda: None, abandon=lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", sessions, clock, loops)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        sessions.close()


class Player:
    """One connection to ``/ws``."""

    def __init__(self, url: str, **options) -> None:
        self._stack = ExitStack()
        address = url.replace("http", "ws") + "/ws"
        self.ws = self._stack.enter_context(connect(address, compression=None, proxy=None, **options))

    def ask(self, message) -> dict:
        """Send a message, or any text, and give the answer."""
        self.ws.send(message if isinstance(message, str | bytes) else json.dumps(message))
        return self.hear()

    def hear(self) -> dict:
        return json.loads(self.ws.recv(PATIENCE_S))

    def reset(self, **data) -> dict:
        answer = self.ask({"type": "reset", "data": data})
        assert answer["type"] == "observation", answer
        return answer["data"]

    def step(self, action) -> dict:
        return self.ask({"type": "step", "data": {"action": action}})

    def state(self) -> dict:
        answer = self.ask({"type": "state"})
        assert answer["type"] == "state"
        return answer["data"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._stack.close()


def code_of(answer) -> str:
    """The code of an answer, which must be an error."""
    assert answer["type"] == "error", answer
    assert set(answer["data"]) == {"message", "code", "errors"}
    assert answer["data"]["message"]
    return answer["data"]["code"]
