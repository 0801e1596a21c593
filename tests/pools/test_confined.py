"""What a process of environments has: descriptors, variables, limits, a user."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re

import pytest

from tests.pools.confined_environments import ABORT, CONFINED, TAKE_FILES, TAKE_MEMORY
from vecserver.control.openenv.sessions import SessionOptions, Sessions
from vecserver.engine.limits import WorkerLimits, WorkerUser
from vecserver.pools.sessions.answers import Ask
from vecserver.pools.sessions.play import PlayOptions
from vecserver.pools.spec import PoolSpec
from vecserver.pools.starting import ONE_THREAD, for_environments
from vecserver.wire.errors import EnvFault, WorkerDied

MEMORY = 4 << 30
FILES = 200
LIMITS = WorkerLimits(memory=MEMORY, files=FILES, core=0)
SPEC = PoolSpec(env_id=CONFINED, num_envs=1, on_failure="raise")
SECRETS = {
    "VECSERVER_TOKEN": "sesame-1",
    "VECSERVER_PORT": "sesame-2",
    "HF_TOKEN": "sesame-3",
    "db_password": "sesame-4",
}
USERS = [user for user in pwd.getpwall() if user.pw_uid > 0]


@pytest.fixture
def confined(make_registry, monkeypatch):
    """A registry whose workers are limited, and a pool of one row."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    registry = make_registry(limits=LIMITS, passed=())
    registry.create(SPEC, "p")
    return registry


def seen(registry) -> dict:
    return json.loads(registry.reset("p").infos["seen"][0])


def test_a_worker_has_what_it_needs_and_nothing_else(confined):
    """Exactly these descriptors and limits, no credentials, neither now nor in what its process began with."""
    found = seen(confined)
    nothing, out, err, *others = found["descriptors"].values()
    assert nothing == "/dev/null"
    assert out == err
    assert out.endswith(".log")
    assert sorted(re.sub(r":\[\d+\]", "", target) for target in others) == EXPECTED
    assert found["limits"]["RLIMIT_AS"] == [MEMORY] * 2
    assert found["limits"]["RLIMIT_NOFILE"] == [FILES] * 2
    assert found["limits"]["RLIMIT_CORE"] == [0, 0]
    assert SECRETS.keys().isdisjoint(found["variables"])
    assert "sesame" not in found["began_with"]
    assert ONE_THREAD.keys() <= set(found["variables"])


EXPECTED = [*["/memfd:vecserver-p (deleted)"] * 2, *["anon_inode:[eventfd]"] * 3, "socket"]
"""The arena, and what its mapping keeps of it; the worker's bell, the tokens and the bell of the finish line; to the
host."""


@pytest.mark.parametrize(
    ("action", "type_", "words"),
    [
        (TAKE_MEMORY, "MemoryError", f"{MEMORY} bytes.*worker_memory"),
        (TAKE_FILES, "OSError", f"{FILES} .*worker_files"),
    ],
)
def test_what_is_beyond_a_limit_is_the_rows_fault_and_names_it(confined, action, type_, words):
    """The exception is what the system raised, with the setting's name; the pool goes on."""
    confined.reset("p")
    with pytest.raises(EnvFault, match=words) as caught:
        confined.step("p", [action])
    assert type_ in caught.value.details["faults"][0]["type"]
    assert seen(confined)


def test_native_code_that_dies_of_it_is_told_of_the_limit_too(confined):
    """A worker that aborts may have been refused memory; another takes its place."""
    confined.reset("p")
    with pytest.raises(
        WorkerDied, match=f"SIGABRT, perhaps for want of memory: worker_memory of this server is {MEMORY}"
    ):
        confined.step("p", [ABORT])
    assert seen(confined)["limits"]["RLIMIT_AS"] == [MEMORY] * 2


@pytest.mark.skipif(os.geteuid() != 0 or not USERS, reason="only root may become another user")
def test_workers_run_as_the_user_that_is_named(make_registry):
    """As that user and in its one group, with a home that is its own, and not as the server's."""
    name, _, uid, gid, _, home, _ = USERS[0]
    registry = make_registry(limits=WorkerLimits(user=WorkerUser(name, uid, gid, home)))
    registry.create(SPEC, "p")
    # only at this: the kernel lets nobody look at a process that has changed its user
    found = registry.reset("p", options={"look": ["user"]}).infos["seen"][0]
    assert json.loads(found)["user"] == [uid, gid, [], home]


def test_a_session_has_what_it_needs_and_nothing_else(monkeypatch):
    """Its socket besides the three of every process; the same limits, and no credentials."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    play = PlayOptions(env_id=CONFINED, limits=LIMITS)

    async def look() -> dict:
        sessions = Sessions(SessionOptions(play=play, passed=()))
        try:
            session = await sessions.open()
            answer = await session.ask(Ask.MESSAGE, b'{"type": "reset"}')
            return json.loads(json.loads(answer.data)["metadata"]["info"]["seen"])
        finally:
            sessions.stop()
            await asyncio.to_thread(sessions.close)

    found = asyncio.run(look())
    nothing, out, err, line = found["descriptors"].values()
    assert (nothing, out) == ("/dev/null", err)
    assert line.startswith("socket:")
    assert found["limits"]["RLIMIT_AS"] == [MEMORY] * 2
    assert found["limits"]["RLIMIT_CORE"] == [0, 0]
    assert SECRETS.keys().isdisjoint(found["variables"])
    assert "sesame" not in found["began_with"]


def test_variables_are_passed_by_name():
    """What looks like a credential or is the server's own only where it is named; its token never."""
    variables = {
        "PATH": "/bin",
        "HF_TOKEN": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "VECSERVER_PORT": "1",
        "VECSERVER_TOKEN": "t",
    }
    assert for_environments((), variables) == {"PATH": "/bin", **ONE_THREAD}
    assert for_environments(("HF_*", "VECSERVER_TOKEN"), variables) == {"PATH": "/bin", "HF_TOKEN": "a", **ONE_THREAD}
    assert for_environments(("*",), variables).keys() == variables.keys() - {"VECSERVER_TOKEN"} | ONE_THREAD.keys()
