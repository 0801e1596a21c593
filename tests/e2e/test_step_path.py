"""No pickle and no JSON between a trainer's ``step`` and its environments, in none of the processes on the way.

A hook of Python's own profiler sees every call that Python code makes, in each of them. The host and the workers get it
from a ``sitecustomize`` that this test puts on their path, and switch it by a signal: the product knows nothing of it.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
import orjson
import pytest

from tests.environments import env_id
from vecserver_client import ControlClient, LocalServer, make_vec

WATCH = '''
import json, os, signal, socket, sys

FORBIDDEN = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "json", "_json", "orjson", "msgspec.json"}


class Watch:
    """Notes every call into a module that pickles or speaks JSON, and the names of all others."""

    def __init__(self):
        self.found, self.seen = set(), set()

    def __call__(self, frame, event, function):
        if event == "call":
            home, name = frame.f_globals.get("__name__") or "", frame.f_code.co_name
            homes = {home, home.partition(".")[0]}
        elif event == "c_call":
            kinds = type(getattr(function, "__self__", None)).__mro__
            homes = {function.__module__, *(kind.__module__ for kind in kinds)}
            name = function.__qualname__
            if name.startswith("json_"):  # msgspec's functions do not name their public module
                homes.add("msgspec.json")
        else:
            return
        (self.found if homes & FORBIDDEN else self.seen).add(name)


watch = Watch()


def switch(number, _frame):
    """SIGUSR1 begins to watch, SIGUSR2 ends it; each is answered with what was seen so far."""
    sys.setprofile(None)
    answer = {"pid": os.getpid(), "to": number, "found": sorted(watch.found), "seen": sorted(watch.seen)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(json.dumps(answer).encode(), os.environ["STEP_PATH_WATCHER"])
    if number == signal.SIGUSR1:
        sys.setprofile(watch)


if "STEP_PATH_WATCHER" in os.environ:
    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)
'''


class Watcher:
    """The other end: switches the hooks of processes and collects what they say."""

    def __init__(self, sock):
        self._socket = sock

    def switch(self, number, pids):
        """Send a signal to processes until each has answered; returns their answers in this order.

        A signal that comes while a process is on its way into a system call interrupts nothing, so it is sent again.
        """
        answers = {}
        deadline = time.monotonic() + 30
        while missing := [pid for pid in pids if pid not in answers]:
            assert time.monotonic() < deadline, f"no answer from {missing}"
            for pid in missing:
                os.kill(pid, number)
            try:
                while len(answers) < len(pids):
                    answer = json.loads(self._socket.recv(65536))
                    if answer["to"] == number:
                        answers[answer["pid"]] = answer
            except TimeoutError:
                continue
        return [answers[pid] for pid in pids]


@pytest.fixture
def watcher(tmp_path, monkeypatch):
    """Puts the hook on the path of all processes that are started from here on."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    address = str(Path(os.environ["VECSERVER_RUNTIME_DIR"]) / "watcher")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    monkeypatch.setenv("STEP_PATH_WATCHER", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(0.5)
        yield Watcher(sock)
    Path(address).unlink()


@pytest.fixture
def here():
    """The hook for this process: the class that the others get."""
    scope = {}
    exec(WATCH, scope)
    before = sys.getprofile()
    yield scope["Watch"]()
    sys.setprofile(before)


def step_watched(watcher, hook, transport, engine):
    """Steps a pool through several episodes under the eyes of all hooks; returns the reports of host and workers."""
    with (
        closing(LocalServer()) as server,
        ControlClient(server.url) as control,
        make_vec(env_id("Count-v0"), 4, url=server.url, transport=transport, engine=engine) as envs,
    ):
        envs.reset(seed=1)
        actions = [envs.action_space.sample() for _ in range(30)]
        pids = [control.get_pool(envs.pool)["host_pid"], *envs.stats().worker_pids]
        watcher.switch(signal.SIGUSR1, pids)
        ended = 0
        sys.setprofile(hook)
        for batch in actions:
            _, _, terminated, truncated, infos = envs.step(batch)
            ended += int((terminated | truncated).sum())
        sys.setprofile(None)
        assert ended >= 4
        assert infos
        return watcher.switch(signal.SIGUSR2, pids)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_no_pickle_and_no_json_on_the_step_path(watcher, here, transport):
    """Steps, resets at the ends of episodes and infos of many types: client, host and workers call neither."""
    host, *workers = step_watched(watcher, here, transport, "envs")
    assert here.found == set()
    assert {"step", "merge"} <= here.seen
    assert host["found"] == []
    assert {"begin_step", "eventfd_write"} <= set(host["seen"])
    for worker in workers:
        assert worker["found"] == []
        assert {"encode_rows", "eventfd_read"} <= set(worker["seen"])


def test_the_watch_sees_the_pickling_of_gymnasiums_own_processes(watcher, here):
    """The counter-check: with the engine ``async`` the worker talks to processes of its own in pickle."""
    host, worker = step_watched(watcher, here, "ipc", "async")
    assert here.found == set()
    assert host["found"] == []
    assert any("dump" in name for name in worker["found"])
    assert any("load" in name for name in worker["found"])


@pytest.mark.parametrize(
    "call",
    [
        lambda: pickle.dumps(1),
        lambda: pickle.loads(b"N."),
        lambda: json.dumps({}),
        lambda: json.loads("{}"),
        lambda: orjson.dumps({}),
        lambda: orjson.loads(b"{}"),
        lambda: msgspec.json.encode({}),
        lambda: msgspec.json.decode(b"{}"),
        lambda: msgspec.json.Encoder().encode({}),
        lambda: msgspec.json.Decoder().decode(b"{}"),
    ],
)
def test_the_watch_sees_every_way_to_pickle_and_to_speak_json(here, call):
    """Each of these calls is found; msgpack's are not."""
    sys.setprofile(here)
    msgspec.msgpack.decode(msgspec.msgpack.encode({}))
    sys.setprofile(None)
    assert here.found == set()
    sys.setprofile(here)
    call()
    sys.setprofile(None)
    assert here.found
