"""Direct drive: the arena goes from hand to hand, and whatever dies in the middle of a step is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import zmq
from gymnasium.vector import AutoresetMode

import vecserver_client as vs
from tests.contract.compare import assert_same, assert_same_batch, run_both
from tests.contract.vector_contract import make_oracle
from tests.dataplane.peers import Peer
from tests.environments import env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import Watched, processor_time, wait_for
from tests.sampling import in_turn, of_which
from vecserver.wire import messages
from vecserver.wire.codec import unpack
from vecserver.wire.errors import (
    DeadlineExceeded,
    EnvFault,
    InvalidAction,
    LeaseHeld,
    LeaseLost,
    PoolBroken,
    PoolLost,
    TransportUnavailable,
    WorkerDied,
)
from vecserver.wire.frames import Kind
from vecserver_client import LocalServer, factory

COUNT = env_id("Count-v0")
NOT_LONG_S = 15.0
NONE = np.zeros(2, np.int64)


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    began = monotonic()
    yield
    assert monotonic() - began < limit_s


@pytest.fixture
def make(server) -> Iterator[Callable[..., vs.RemoteVectorEnv]]:
    """Makes pools that are driven directly, and closed after the test."""
    with ExitStack() as stack:

        def make_one(name: str = COUNT, num_envs: int = 2, *, workers: int = 1, **options) -> vs.RemoteVectorEnv:
            envs = vs.make_vec(name, num_envs, url=server.url, workers=workers, transport="shm", **options)
            stack.callback(envs.close, terminate=True)
            assert envs.transport == "shm"
            return envs

        yield make_one


@pytest.fixture
def attach(server) -> Iterator[Callable[..., vs.RemoteVectorEnv]]:
    """Attaches to a pool; what it returns is closed after the test, before the pool."""
    with ExitStack() as stack:

        def attach_one(envs: vs.RemoteVectorEnv, transport: str, **options) -> vs.RemoteVectorEnv:
            return stack.enter_context(closing(vs.attach(server.url, envs.pool, transport=transport, **options)))

        yield attach_one


@pytest.fixture
def view(server) -> Callable[[vs.RemoteVectorEnv], dict]:
    """What the server says of a pool."""

    def view_one(envs: vs.RemoteVectorEnv) -> dict:
        with vs.ControlClient(server.url) as control:
            return control.get_pool(envs.pool)

    return view_one


def steps_of(observations: np.ndarray) -> list[float]:
    """How many steps each row of a CountEnv says that it has taken."""
    return observations[:, 2].tolist()


@in_turn("mode, name, num_envs, kwargs", list(AutoresetMode), [("Count-v0", 5, {}), ("Nested-v0", 3, {})])
def test_every_result_equals_the_oracle(make, mode, name, num_envs, kwargs):
    """Observations, rewards, flags and infos are the same to the bit, across the ends of episodes."""
    with closing(make_oracle(env_id(name), num_envs, autoreset_mode=mode, **kwargs)) as oracle:
        envs = make(env_id(name), num_envs, workers=2, autoreset_mode=mode, **kwargs)
        assert run_both(envs, oracle, 25, seed=100) >= 2 * num_envs


def test_the_arena_goes_from_hand_to_hand(make):
    """Steps here, resets, calls and frames at the host, in any order: the oracle's results, each batch counted once."""
    options = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_mode": "rgb_array"}
    envs = make(COUNT, 3, workers=2, **options)
    with closing(make_oracle(COUNT, 3, **options)) as oracle:
        rng, batches = np.random.default_rng(3), 0
        assert_same(envs.reset(seed=7), oracle.reset(seed=7), "reset")
        for turn in range(12):
            for _ in range(turn % 3 + 1):
                batch = rng.integers(0, 5, 3)
                assert_same_batch(envs.step(batch), oracle.step(batch), f"step {batches}")
                batches += 1
            assert envs.get_attr("steps") == oracle.get_attr("steps")
            mask = {"reset_mask": np.array([True, turn % 2 == 0, False])}
            assert_same(envs.reset(options=dict(mask)), oracle.reset(options=dict(mask)), "masked reset")
            assert_same(envs.render(), oracle.render(), "frames")
        assert envs.stats().batches == batches


def test_an_action_that_no_row_takes_is_refused_before_anything_is_stepped(make):
    """The host judges what looks wrong here: a row that only resets takes any action, another does not."""
    envs = make(COUNT, 2, length=1)
    envs.reset(seed=1)
    with pytest.raises(InvalidAction, match="row 1"):
        envs.step(np.array([0, 5]))
    assert envs.stats().batches == 0
    assert steps_of(envs.step(NONE)[0]) == [1, 1]  # and both are over
    assert steps_of(envs.step(np.array([9, -9]))[0]) == [0, 0]
    with pytest.raises(InvalidAction):
        envs.step(np.array([9, 0]))
    envs.step(NONE)
    envs.reset(options={"reset_mask": np.array([False, True])})
    with pytest.raises(InvalidAction, match="row 1"):
        envs.step(np.array([9, 9]))
    assert steps_of(envs.step(np.array([9, 1]))[0]) == [0, 1]
    assert envs.stats().batches == 4


@pytest.mark.parametrize("size", [1, 100_000, 3_000_000])
def test_infos_of_any_size_arrive(make, size):
    """What does not fit the arena comes by way of the host, of some workers or of all."""
    envs = make(odd("Verbose-v0"), 3, workers=2, size=size, length=3)
    with closing(make_oracle(odd("Verbose-v0"), 3, size=size, length=3)) as oracle:
        assert run_both(envs, oracle, 5, seed=1) > 0
        assert envs.stats().batches == 5


def test_infos_that_come_late_come_whole(make, monkeypatch):
    """A wait that ends before the host has sent them loses none, neither those that lay in the arena."""

    def too_late(_sock, _kind):
        raise TimeoutError

    size = 52_000
    envs = make(odd("Verbose-v0"), 3, workers=2, size=size)
    drive = envs._link._drive
    two_rows, one_row = drive.views.plan.side_sizes
    assert one_row > size  # with all that is around it
    assert two_rows < 2 * size
    with closing(make_oracle(odd("Verbose-v0"), 3, size=size)) as oracle:
        assert_same(envs.reset(seed=1), oracle.reset(seed=1), "reset")
        for _ in range(3):
            actions = np.zeros(3, np.int64)
            envs.step_async(actions)
            wait_for(drive.driver.words_done)
            with monkeypatch.context() as patched, pytest.raises(DeadlineExceeded):
                patched.setattr("vecserver_client.borrowed.receive", too_late)
                envs.step_wait(timeout=0)
            assert_same_batch(envs.step_wait(), oracle.step(actions), "step")
        assert not drive.arena.is_over()


def test_faults_of_any_size_arrive(make):
    """An error that does not fit the arena either."""
    envs = make(odd("Verbose-v0"), 8, size=200_000, fail_at=2)
    envs.reset(seed=1)
    with pytest.raises(EnvFault, match=r"row 0 raised ValueError: !+") as caught:
        for _ in range(2):
            envs.step(np.zeros(8, np.int64))
    assert [fault["row"] for fault in caught.value.details["faults"]] == [*range(8)]
    envs.reset(seed=1)
    assert steps_of(envs.step(np.zeros(8, np.int64))[0]) == [1] * 8


def test_a_pool_whose_actions_have_no_fixed_size_is_driven_by_its_host(server):
    """There is no arena to be lent; auto takes the next transport."""
    with vs.make_vec(env_id("Text-v0"), 2, url=server.url, workers=1) as envs:
        assert envs.transport == "ipc"
    with pytest.raises(TransportUnavailable, match="no shm endpoint"):
        vs.make_vec(env_id("Text-v0"), 2, url=server.url, workers=1, transport="shm")


def test_auto_takes_the_next_transport_where_the_arena_is_out_of_reach(server, monkeypatch, make):
    """Another user's pool, say: the lease is given back, and taken over ipc."""

    def refuse(_peer: object) -> None:
        raise PermissionError("another user's")

    monkeypatch.setattr("vecserver_client.borrowed.check_same_user", refuse)
    with vs.make_vec(COUNT, 2, url=server.url, workers=1) as envs:
        assert envs.transport == "ipc"
        envs.reset(seed=1)
        assert steps_of(envs.step(NONE)[0]) == [1, 1]


def frames_of(peer: Peer) -> list[np.ndarray]:
    answer = peer.ask(Kind.RENDER, messages.Render())
    assert answer.header.kind == Kind.RENDER, answer.error
    return [frame for part in unpack(answer.ext) for frame in part]


def test_frames_of_an_observer_come_between_two_steps(make, view):
    """A driver that steps without a pause lets the host have its turn, and neither notices the other."""
    envs = make(COUNT, 3, workers=2, render_mode="rgb_array", length=1000, with_infos=False)
    envs.reset(seed=1)
    frames, stop = [], threading.Event()

    def observe(endpoint: str) -> None:
        with zmq.Context() as context, Peer(context, endpoint) as peer:
            while not stop.is_set():
                frames.append(frames_of(peer))

    observer = threading.Thread(target=observe, args=[view(envs)["endpoints"]["ipc"]])
    observer.start()
    try:
        for count in range(1, 201):
            assert steps_of(envs.step(np.zeros(3, np.int64))[0]) == [count] * 3
        wait_for(lambda: len(frames) > 20)  # and while it does not step
    finally:
        stop.set()
        observer.join()
    assert all(len(each) == 3 for each in frames)
    assert envs.stats().batches == 200


def test_a_lease_does_not_expire_while_the_arena_is_lent(make, attach):
    """A driver that only steps says nothing to the host; its process is the sign of life."""
    envs = make(COUNT, 2, lease_ttl=0.2)
    envs.reset(seed=1)
    began = monotonic()
    while monotonic() - began < 0.4:
        envs.step(NONE)
    with pytest.raises(LeaseHeld):
        attach(envs, "tcp")


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_a_driver_that_closes_gives_the_arena_back(make, attach, server, transport):
    """The next one goes on where it stopped, over any transport."""
    envs = make(COUNT, 2, workers=2, length=9)
    first = attach(envs, "shm", force=True)
    first.reset(seed=1)
    assert steps_of(first.step(NONE)[0]) == [1, 1]
    first.close()
    second = attach(envs, transport)
    assert steps_of(second.step(NONE)[0]) == [2, 2]
    assert second.stats().batches == 2


def test_a_driver_that_lost_its_lease_cannot_step(make, attach):
    """It is told at once; what it writes and rings all the same reaches nobody."""
    envs = make(COUNT, 2, workers=2, length=100)
    envs.reset(seed=1)
    envs.step(NONE)
    late = envs._link._drive.driver
    usurper = attach(envs, "shm", force=True)
    assert steps_of(usurper.step(NONE)[0]) == [2, 2]
    for count in range(3, 20):
        late.start_step([np.full(2, 4)])  # as of a process that was stopped meanwhile
        observations = usurper.step(np.ones(2, np.int64))[0]
        assert observations[:, 2:4].tolist() == [[count, 1]] * 2
    del late
    with within(NOT_LONG_S), pytest.raises(LeaseLost):
        envs.step(NONE)
    with pytest.raises(LeaseLost):
        envs.step(NONE)
    assert usurper.stats().batches == 19


@pytest.fixture
def slow(make, tmp_path):
    """A pool in the middle of a step; the file that ends it."""
    envs = make(env_id("Slow-v0"), 2, gate=str(tmp_path / "gate"), at=1, seed=1, length=9)
    envs.reset(seed=1)
    envs.step_async(NONE)
    with pytest.raises(DeadlineExceeded, match="row"):
        envs.step_wait(timeout=0.05)
    return envs, tmp_path / "gate"


def test_a_takeover_in_the_middle_of_a_step(slow, attach):
    """The step ends first, for all rows; the old driver is told at once, and the new one goes on behind it."""
    envs, gate = slow
    usurper = attach(envs, "tcp", force=True)
    with within(NOT_LONG_S), pytest.raises(LeaseLost):
        envs.step_wait()
    usurper.step_async(np.array([1, 2]))
    gate.touch()
    assert steps_of(usurper.step_wait()[0]) == [2, 2]
    assert usurper.stats().batches == 2


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_a_takeover_of_a_finished_step_that_nobody_has_collected(make, attach, transport):
    """What lies in the arena by then is the new driver's: the old one is told so, and gets none of it."""
    envs = make(COUNT, 2, workers=2)
    envs.reset(seed=1)
    envs.step_async(NONE)
    wait_for(envs._link._drive.driver.words_done)
    usurper = attach(envs, transport, force=True)
    usurper.reset(seed=5)
    usurper.step(NONE)
    with within(NOT_LONG_S), pytest.raises(LeaseLost):
        envs.step_wait()
    assert steps_of(usurper.step(NONE)[0]) == [2, 2]


def test_a_host_that_is_killed_in_a_step_is_a_lost_pool(slow, view):
    """Its end is the end of the loan, and of its workers."""
    envs, _ = slow
    os.kill(view(envs)["host_pid"], signal.SIGKILL)
    for call in (envs.step_wait, lambda: envs.step(NONE)):
        with within(NOT_LONG_S), pytest.raises(PoolLost):
            call()


def test_a_server_that_is_killed_in_a_step_is_a_lost_pool(tmp_path):
    """Its hosts leave with it, once the step is over or will not end."""
    with closing(LocalServer()) as server:
        options = {"gate": str(tmp_path / "gate"), "at": 1, "seed": 1, "transport": "shm", "workers": 1}
        with closing(vs.make_vec(env_id("Slow-v0"), 2, url=server.url, **options)) as envs:
            envs.reset(seed=1)
            envs.step_async(NONE)
            os.kill(server.pid, signal.SIGKILL)
            (tmp_path / "gate").touch()
            with within(NOT_LONG_S), pytest.raises(PoolLost):
                envs.step_wait()
                while True:  # the step that had begun may end well, and the host has to hear of it
                    envs.step(NONE)


def test_a_worker_that_dies_for_good_is_named(make, view):
    """Within the step, with its rows; afterwards the pool is broken, until it is reset."""
    envs = make(env_id("Kill-v0"), 4, workers=2, at=2, seed=13, restart_budget=0)
    envs.reset(seed=10)
    envs.step(np.zeros(4, np.int64))
    with within(NOT_LONG_S), pytest.raises(WorkerDied, match=r"worker 1 \(rows 2 to 3, pid \d+\).*SIGKILL"):
        envs.step(np.zeros(4, np.int64))
    with pytest.raises(PoolBroken, match="SIGKILL"):
        envs.step(np.zeros(4, np.int64))
    assert view(envs)["state"] == "broken"
    assert envs.stats().batches == 2
    envs.reset(seed=20)
    assert envs.step(np.zeros(4, np.int64))[0][:, :3].tolist() == [[20 + row, 0, 1] for row in range(4)]


def test_a_worker_that_dies_between_steps_is_named(make):
    """Nobody waits for one that is not there, and whose place no other takes."""
    envs = make(COUNT, 4, workers=2, restart_budget=0)
    envs.reset(seed=1)
    pid = envs.stats().worker_pids[0]
    with Watched(pid) as processes:
        processes.signal(pid, signal.SIGKILL)
        assert not processes.running()
    with within(NOT_LONG_S), pytest.raises((WorkerDied, PoolBroken), match="SIGKILL"):
        envs.step(np.zeros(4, np.int64))


DRIVER = """
import os, sys
import numpy as np
import vecserver_client as vs

url, pool, where = sys.argv[1:]
envs = vs.attach(url, pool, transport="shm", force=True)
envs.reset(seed=1)
envs.step(np.array([1, 1]))
driver = envs._link._drive.driver

def die(*_):
    os.kill(os.getpid(), 9)

if where == "stored":
    driver._finish.arm = die
elif where == "written":
    driver._bells[0].ring = die
elif where == "rung":
    driver._bells[1].ring = die
elif where == "waiting":
    envs._link._drive.done.wait = envs._link._drive.done.take = die
elif where == "read":
    envs._link._drive.turn.ring = die
envs.step(np.array([2, 2]))
die()
"""


@of_which(
    "where, transport, steps",
    [("stored", "tcp", 1), ("written", "shm", 2), ("rung", "tcp", 2), ("rung", "shm", 2), ("waiting", "ipc", 2)]
    + [("read", "shm", 2)],
    *(0, 3, 4),
)
def test_a_driver_that_is_killed_in_a_step_leaves_a_whole_batch_or_none(make, attach, server, where, transport, steps):
    """Wherever it was killed, all rows stand at the same step, and the next driver steps them on."""
    envs = make(COUNT, 2, workers=2, length=9)
    envs.close = lambda **_: None  # the lease is taken from it: the fixture removes the pool with the server
    command = [sys.executable, "-c", DRIVER, server.url, envs.pool, where]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    heir = attach(envs, transport, force=True)
    observations = heir.step(np.array([3, 4]))[0]
    assert observations[:, 2:4].tolist() == [[steps + 1, 3], [steps + 1, 4]]
    assert heir.stats().batches == steps + 1
    assert steps_of(heir.step(NONE)[0]) == [steps + 2] * 2
    del envs.close


def test_drivers_that_come_and_go_leave_nothing_behind(make, attach, view):
    """No descriptor and no memory, in the host and in its workers."""
    envs = make(COUNT, 2, workers=2)
    host, workers = view(envs)["host_pid"], envs.stats().worker_pids

    def open_in(pid: int) -> tuple[int, int]:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="ascii")
        return len([*Path(f"/proc/{pid}/fd").iterdir()]), maps.count("memfd:vecserver-")

    def held() -> list[tuple[int, int]]:
        return [open_in(pid) for pid in (host, *workers)]

    def one() -> None:
        other = attach(envs, "shm", force=True)
        other.reset(seed=1)
        other.step(NONE)
        other.close()

    one()
    with pytest.raises(LeaseLost):
        envs.step(NONE)
    before = held()
    for _ in range(4):
        one()
    wait_for(lambda: held() <= before)


def test_a_pool_that_is_lent_is_idle(make, view):
    """While its driver computes nobody watches for anything."""
    envs = make(COUNT, 2, workers=2)
    envs.reset(seed=1)
    for _ in range(50):
        envs.step(NONE)
    pids = [view(envs)["host_pid"], *envs.stats().worker_pids]
    before = [processor_time(pid) for pid in pids]
    threading.Event().wait(0.5)
    assert all(processor_time(pid) - then < 0.1 for pid, then in zip(pids, before, strict=True))


def test_an_interrupted_wait_is_taken_up_again(make, monkeypatch):
    """Ctrl-C in the middle of a wait, the ring taken already or not: the step's result comes with the next one."""
    envs = make(COUNT, 2, workers=2, length=100)
    envs.reset(seed=1)
    done = envs._link._drive.done
    take = done.take
    for count, interrupted_after in [(1, True), (2, False), (3, True)]:

        def interrupt(after: bool = interrupted_after) -> int:
            monkeypatch.setattr(done, "take", take)
            if after:
                done.wait(5)
            raise KeyboardInterrupt

        envs.step_async(NONE)
        monkeypatch.setattr(done, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            envs.step_wait()
        assert steps_of(envs.step_wait(timeout=5)[0]) == [count, count]
    assert steps_of(envs.step(NONE)[0]) == [4, 4]
    assert envs.stats().batches == 4


@pytest.mark.parametrize("where", ["before", "first", "second"])
def test_an_interrupted_start_is_taken_up_again(make, monkeypatch, where):
    """Ctrl-C between two bells: the workers that were not called are called later, the others not twice."""
    envs = make(COUNT, 2, workers=2, length=100)
    envs.reset(seed=1)
    drive = envs._link._drive

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    owner, name = {
        "before": (drive.driver._finish, "arm"),
        "first": (drive.driver._bells[0], "ring"),
        "second": (drive.driver._bells[1], "ring"),
    }[where]
    for count in (1, 3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, interrupt)
            envs.step(np.array([1, 2]))
        observations = envs.step_wait(timeout=5)[0]
        assert observations[:, 2:4].tolist() == [[count, 1], [count, 2]]
        assert steps_of(envs.step(NONE)[0]) == [count + 1] * 2
    assert envs.stats().batches == 4


@pytest.mark.parametrize("name", ["turn", "store"])
def test_a_step_that_was_interrupted_before_it_began_was_not_begun(make, monkeypatch, name):
    """The arena goes back to the host, and what follows is stepped there."""
    envs = make(COUNT, 2, length=100)
    envs.reset(seed=1)
    envs.step(NONE)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    owner, method = {"turn": (envs._link._drive.turn, "take"), "store": (envs._actions, "store")}[name]
    monkeypatch.setattr(envs._link, "_actions", envs._actions)
    monkeypatch.setattr(envs._link._drive.driver, "_actions", envs._actions)
    monkeypatch.setattr(owner, method, interrupt)
    with pytest.raises(KeyboardInterrupt):
        envs.step(NONE)
    monkeypatch.undo()
    assert steps_of(envs.step(NONE)[0]) == [2, 2]
    assert envs.stats().batches == 2


def test_the_transports_are_tried_in_this_order():
    """The arena first."""
    assert factory.TRANSPORTS == ("shm", "ipc", "tcp", "ws")
