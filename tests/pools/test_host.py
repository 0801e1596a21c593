"""A pool in this process: one command at a time over real workers."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.contract.compare import assert_same
from tests.environments import env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import Watched, wait_for
from vecserver.arena.views import WorkerLine
from vecserver.pools import crew as crew_module
from vecserver.pools.host import Host
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import (
    EnvFault,
    ForbiddenEnv,
    InvalidAction,
    InvalidSpec,
    MalformedMessage,
    MessageTooLarge,
    PoolStopping,
    WorkerDied,
)
from vecserver.wire.infos import SIDE_ROWS
from vecserver.wire.messages import Call, Reset

COUNT = env_id("Count-v0")
LONG_S = 30.0


class WaitingHost(Host):
    """A host whose commands are waited for, and that may be stopped twice."""

    stopped = False

    def stop(self, grace: float) -> None:
        if not self.stopped:
            self.stopped = True
            super().stop(grace)

    def finish(self):
        assert self.wait(LONG_S)
        outcome = self.collect()
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def reset(self, seed: int = 0) -> np.ndarray:
        self.begin_reset(Reset(seeds=[seed + row for row in range(self.spec.num_envs)]))
        return self.observations(self.finish())

    def begin(self, *actions: int) -> None:
        ext, body = self.actions.encode(self.actions.coerce(np.array(actions)))
        self.begin_step(ext, bytes(body))

    def step(self, *actions: int) -> np.ndarray:
        self.begin(*actions)
        return self.observations(self.finish())

    def observations(self, outcome) -> np.ndarray:
        return self.layout.views(bytearray(self.slot_body(outcome.slot))).observations[0]

    def call(self, name: str, *args, **kwargs) -> list:
        self.begin_call(Call(name, pack([list(args), kwargs])))
        return self.results()

    def results(self) -> list:
        return [result for worker in unpack(self.finish().ext) for result in worker]


@pytest.fixture
def abort():
    """The two ends of the socket by which a server gives up a pool."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def make_host(abort):
    """Makes hosts that are stopped after the test."""
    with ExitStack() as stack:

        def make(env: str = COUNT, num_envs: int = 3, **options) -> WaitingHost:
            spec = PoolSpec(env_id=env, num_envs=num_envs, **{"workers": 1} | options)
            host = WaitingHost("test", spec, Caps())
            stack.callback(vars(host).clear)  # the mapped memory goes with it, and pytest keeps the host
            stack.callback(lambda: host.stop(5.0))
            return host

        yield make


@pytest.fixture
def host(make_host, abort):
    """Makes hosts that have started."""

    def make(*args, **kwargs) -> WaitingHost:
        host = make_host(*args, **kwargs)
        host.start(LONG_S, abort[0].fileno())
        return host

    return make


# Commands


def texts(outcome) -> list[str]:
    """The observations of a pool of ``LongText``."""
    rows = [data for payload in unpack(outcome.ext) for row, side in payload if row == SIDE_ROWS for data in side]
    return [unpack(data)[0] for data in rows]


def test_values_of_any_length_come_and_go(host):
    """Longer than a socket's buffer on the way to the workers, and than a side area on the way back."""
    pool = host(odd("LongText-v0"), num_envs=3, workers=2)
    assert texts(_reset(pool)) == [""] * 3
    for words in (["a", "b" * 1_000_000, ""], ["", "", "c" * 3_000_000]):
        pool.begin_step(*pool.actions.encode(pool.actions.coerce(words)))
        assert texts(pool.finish()) == words


def test_a_result_too_large_for_a_message_is_an_error(host, monkeypatch):
    """It says how large it was, and the pool goes on."""
    pool = host(odd("LongText-v0"), num_envs=2, env_kwargs={"times": 1000})
    _reset(pool)
    monkeypatch.setattr(crew_module, "MAX_EXT", 1000)
    pool.begin_step(*pool.actions.encode(pool.actions.coerce(["a", "b"])))
    with pytest.raises(MessageTooLarge, match=r"of 2\d\d\d bytes; a message takes 1000"):
        pool.finish()
    pool.begin_step(*pool.actions.encode(pool.actions.coerce(["", ""])))
    assert texts(pool.finish()) == ["", ""]


def _reset(pool):
    pool.begin_reset(Reset())
    return pool.finish()


def test_side_values_outside_their_space_are_not_begun(host):
    """Every row stays where it was."""
    pool = host(env_id("Text-v0"), num_envs=2)
    before = texts(_reset(pool))
    for words, text in ((["a", "x"], "row 1: action 'x' is outside"), (["a" * 8, "a"], "row 0: ")):
        with pytest.raises(InvalidAction, match=text):
            pool.begin_step(*pool.actions.encode(pool.actions.coerce(words)))
    with pytest.raises(MalformedMessage):
        pool.begin_step(b"", b"")
    pool.begin_step(*pool.actions.encode(pool.actions.coerce(["a", ""])))
    steps = [text.split(":")[2][:1] for text in texts(pool.finish())]
    assert (steps, [text.split(":")[2][:1] for text in before]) == (["1", "1"], ["0", "0"])


def test_a_batch_is_begun_then_waited_for_then_collected(host):
    """Results lie in the slot that the outcome names; every row of every worker has stepped once."""
    pool = host(num_envs=5, workers=2)
    assert pool.reset(seed=3)[:, 0].tolist() == [3, 4, 5, 6, 7]
    for step in range(1, 4):
        assert pool.step(0, 1, 2, 3, 4)[:, 2:4].tolist() == [[step, action] for action in range(5)]
    assert (pool.batches, pool.counted(WorkerLine.STEPS), pool.resets) == (3, 15, 1)


def test_a_poller_can_wait_instead(host):
    """Between begin and collect the bell becomes readable, and ``poll`` says when all workers have finished."""
    pool = host(num_envs=2, workers=2)
    pool.reset()
    pool.begin(1, 2)
    while not pool.poll():
        assert select.select([pool.done_fd], [], [], LONG_S)[0]
    assert pool.collect().error is None


def test_a_wrong_batch_is_not_begun(host):
    """Bytes that are no batch and actions outside their space leave every row where it was."""
    pool = host(num_envs=3)
    pool.reset()
    for ext, body, error in (
        (b"", b"too short", MalformedMessage),
        (b"\xc1", bytes(24), MalformedMessage),
        (b"", np.array([0, 9, 0]).tobytes(), InvalidAction),
    ):
        with pytest.raises(error):
            pool.begin_step(ext, body)
    assert pool.step(1, 1, 1)[:, 2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("request_", [Reset(seeds=[1]), Reset(seeds=[]), Reset(mask=[True] * 4), Reset(options=[None])])
def test_a_reset_of_another_length_is_not_begun(host, request_):
    """As many seeds and as long a mask as rows."""
    pool = host(num_envs=3)
    with pytest.raises(InvalidSpec, match="for 3 rows"):
        pool.begin_reset(request_)
    pool.reset()


def test_calls_reach_every_row(host):
    """Results come worker by worker in the order of rows; a pool that was never reset can be called, too."""
    pool = host(num_envs=5, workers=2)
    assert pool.call("tag") == [0.0] * 5
    pool.reset(seed=10)
    assert pool.call("add", 2, b=3) == [15, 16, 17, 18, 19]
    assert (pool.resets, pool.batches) == (1, 0)


def test_attributes_are_set_row_by_row(host):
    """Each worker gets the values of its rows; another number of values is not begun."""
    pool = host(num_envs=5, workers=2)
    pool.begin_call(Call("tag", pack([1.0, 2.0, 3.0, 4.0, 5.0]), assign=True))
    assert pool.finish().ext == b""
    assert pool.call("tag") == [1.0, 2.0, 3.0, 4.0, 5.0]
    for values in ([1.0], 1.0, [1.0] * 6):
        with pytest.raises(InvalidSpec, match="one value a row"):
            pool.begin_call(Call("tag", pack(values), assign=True))
    with pytest.raises(MalformedMessage):
        pool.begin_call(Call("tag", b"\xc1", assign=True))


def test_some_rows_are_called_or_set(host):
    """Each worker gets those of its own, and the values for them."""
    pool = host(num_envs=5, workers=2)
    pool.reset(seed=10)
    pool.begin_call(Call("tag", pack([1.0, 3.0, 4.0]), assign=True, rows=[1, 3, 4]))
    assert pool.finish().ext == b""
    pool.begin_call(Call("tag", pack([[], {}]), rows=[0, 1, 3]))
    assert unpack(pool.finish().ext) == [[0.0, 1.0], [3.0]]
    pool.begin_call(Call("add", pack([[2], {}]), rows=[4]))
    assert unpack(pool.finish().ext) == [[], [16]]
    assert pool.call("tag") == [0.0, 1.0, 0.0, 3.0, 4.0]


@pytest.mark.parametrize("rows", [[5], [-1], [1, 1], [2, 1]])
def test_rows_that_are_none_of_the_pools_are_refused(host, rows):
    """Before anything is called."""
    pool = host(num_envs=5, workers=2)
    with pytest.raises(InvalidSpec, match="row"):
        pool.begin_call(Call("tag", pack([[], {}]), rows=rows))
    with pytest.raises(InvalidSpec, match="one value a row"):
        pool.begin_call(Call("tag", pack([1.0] * 5), assign=True, rows=[1]))
    assert pool.call("tag") == [0.0] * 5


@pytest.mark.parametrize(
    "arguments", [b"", b"\xc1", pack(3), pack([[], {}, 1])], ids=["none", "bad", "a number", "three"]
)
def test_arguments_that_are_none_are_a_fault(host, arguments):
    """A worker that is sent nonsense says so and takes the next command."""
    pool = host(num_envs=2)
    pool.begin_call(Call("tag", arguments))
    with pytest.raises((EnvFault, MalformedMessage)):
        pool.finish()
    assert pool.call("tag") == [0.0, 0.0]


def test_a_result_that_cannot_travel_is_a_fault(host):
    """The caller is told which type it was."""
    pool = host(num_envs=2)
    with pytest.raises(EnvFault, match="cannot travel"):
        pool.call("np_random")
    assert pool.call("tag") == [0.0, 0.0]


def test_large_arguments_and_results_travel(host):
    """What is larger than a socket's buffer and a side area arrives whole, both ways."""
    pool = host(num_envs=3, workers=2)
    value = np.arange(1_000_000, dtype=np.float64)
    assert_same(pool.call("echo", value), [value] * 3, "results")
    assert pool.call("tag") == [0.0] * 3


def test_frames_come_by_the_number_of_the_row(host):
    """Some rows or all, from every worker that has some; a row that is none is not begun."""
    pool = host(num_envs=4, workers=2, render_mode="rgb_array")
    pool.reset(seed=20)
    for rows in (None, [0, 1, 2, 3], [3], [1, 2], []):
        pool.begin_render(rows)
        shown = [int(frame[0, 0, 0]) for frame in pool.results()]
        assert shown == [20 + row for row in (range(4) if rows is None else rows)]
    for rows in ([4], [-1], [0, 99]):
        with pytest.raises(InvalidSpec, match="of a pool with 4 rows"):
            pool.begin_render(rows)
    with pytest.raises(InvalidSpec, match="once"):
        pool.begin_render([0] * 1000)
    assert (pool.resets, pool.batches) == (1, 0)


def test_large_frames_travel(host):
    """Frames of megabytes arrive whole."""
    pool = host(odd("Verbose-v0"), 3, workers=2, render_mode="rgb_array", env_kwargs={"size": 1_000_000})
    pool.reset(seed=7)
    pool.begin_render(None)
    frames = pool.results()
    assert [frame.shape for frame in frames] == [(1, 1_000_000, 3)] * 3
    assert [np.unique(frame).tolist() for frame in frames] == [[7], [8], [9]]


def test_large_infos_travel(host):
    """Infos larger than the side area arrive whole, those of the other worker beside them."""
    pool = host(odd("Verbose-v0"), 3, workers=2, env_kwargs={"size": 1_000_000})
    pool.reset(seed=7)
    pool.begin(0, 0, 0)
    entries = [entry for worker in unpack(pool.finish().ext) for entry in worker]
    assert [row for row, _ in entries] == [0, 1, 2]
    assert all((info["blob"] == 8 + row).all() for row, info in entries)


def test_large_faults_travel_cut(host):
    """Errors of many rows that are larger than the side area arrive, each with its ends and without its middle."""
    pool = host(odd("Verbose-v0"), 8, env_kwargs={"size": 500_000, "fail_at": 1})
    pool.reset(seed=7)
    with pytest.raises(EnvFault, match="(?s)row 0 raised ValueError: !!!!.*and 7 more rows") as caught:
        pool.step(*[0] * 8)
    assert [fault["row"] for fault in caught.value.faults] == list(range(8))
    assert all(10_000 < len(fault["message"]) < 20_000 for fault in caught.value.faults)
    assert "…" in caught.value.faults[0]["message"]
    assert caught.value.traceback.startswith("Traceback")


def test_a_slow_batch_says_where_it_is(host, tmp_path):
    """While a row is stepped, ``progress`` names it and the end of its shard."""
    gate = tmp_path / "gate"
    pool = host(env_id("Slow-v0"), 4, workers=2, env_kwargs={"gate": str(gate), "at": 1, "seed": 2})
    pool.reset(seed=0)
    assert pool.progress() == (0, 0)
    pool.begin(0, 0, 0, 0)
    assert not pool.wait(0.02)
    assert not pool.poll()
    wait_for(lambda: pool.progress() == (2, 3))
    gate.touch()
    assert pool.observations(pool.finish())[:, 2].tolist() == [1, 1, 1, 1]


# Workers


def test_a_worker_has_one_thread_a_library(host):
    """There is a worker a core already."""
    (pid,) = host(num_envs=1).worker_pids
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"OPENBLAS_NUM_THREADS=1", b"MKL_NUM_THREADS=1"} <= set(environment)


def test_each_worker_stays_on_a_core_of_its_own(host):
    """Where there is a core for each worker; otherwise they go where the kernel puts them."""
    cores = os.sched_getaffinity(0)
    pinned = host(num_envs=len(cores), workers=len(cores))
    pinned.reset()
    assert set().union(*map(os.sched_getaffinity, pinned.worker_pids)) == cores
    if len(cores) > 1:
        assert {len(os.sched_getaffinity(pid)) for pid in pinned.worker_pids} == {1}
        assert os.sched_getaffinity(host(num_envs=1).worker_pids[0]) == cores


def test_a_worker_that_ended_breaks_the_pool(host):
    """Where no other may take its place. Its descriptor says which; commands that run end with how it ended."""
    pool = host(num_envs=4, workers=2, restart_budget=0)
    pool.reset()
    (fd, shard) = [*pool.worker_fds.items()][1]
    pool.begin(0, 0, 0, 0)
    pool.finish()
    os.kill(pool.worker_pids[1], signal.SIGTERM)
    assert select.select([fd], [], [], LONG_S)[0]
    pool.attend(shard)
    assert isinstance(pool.broken, WorkerDied)
    assert pool.broken.details == {"shard": 1, "rows": [2, 3], "exitcode": -15}
    assert pool.poll()
    assert pool.wait(0)
    assert pool.collect().error is pool.broken


def test_a_message_to_a_worker_that_ended_does_no_harm(host):
    """Who sends before the end was seen finds out by sending; the one that takes its place hears of it."""
    pool = host(num_envs=2, workers=2)
    with Watched(pool.worker_pids[0]) as worker:
        worker.signal(pool.worker_pids[0], signal.SIGKILL)
        assert not worker.running()
    pool.begin_reset(Reset())
    assert pool.watch(LONG_S)
    assert pool.collect().error is None
    assert pool.restarts == {"killed": 1}


def test_a_worker_that_dies_while_it_sends_is_named(host):
    """Results that come by the socket may end in the middle; the command then ends with how the worker did."""
    pool = host(odd("Verbose-v0"), 1, env_kwargs={"size": 10_000_000})
    pool.reset()
    pool.begin(0)
    assert pool.wait(LONG_S)
    os.kill(pool.worker_pids[0], signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        pool.finish()
    assert pool.broken is None


def test_a_pool_that_is_not_wanted_any_more_is_not_made(make_host, abort, tmp_path):
    """The server's end, or its word, ends the wait for environments; ``stop`` ends the workers by force."""
    host = make_host(odd("Stuck-v0"), 1, env_kwargs={"began": str(tmp_path / "began")})
    abort[1].close()
    with pytest.raises(PoolStopping):
        host.start(LONG_S, abort[0].fileno())
    with Watched(*host.worker_pids) as workers:
        host.stop(0.0)
        assert not workers.running(0)


def test_stopping_closes_the_environments(host, tmp_path):
    """Workers are asked to close, and leave by themselves."""
    pool = host(num_envs=2, workers=2)
    pool.reset()
    workers = list(pool._workers)
    pool.stop(LONG_S)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_worker_that_has_not_begun_leaves_in_order_too(host):
    """A pool may stop before a worker saw its last command: it runs it, closes its environments and leaves."""
    pool = host(num_envs=1)
    pool.reset()
    (worker,) = pool._workers
    os.kill(worker.pid, signal.SIGSTOP)
    pool.begin(0)
    worker.ask_to_close()
    os.kill(worker.pid, signal.SIGCONT)
    pool.stop(LONG_S)
    assert worker.exitcode == 0


def test_a_host_stopped_twice_closes_nothing_of_others():
    """The numbers of its descriptors are another's by then."""
    host = Host("p", PoolSpec(env_id=COUNT, num_envs=1), Caps())
    host.stop(0.0)
    others = [os.pipe() for _ in range(2)]
    host.stop(0.0)
    for fd in (fd for pair in others for fd in pair):
        os.close(fd)  # fails for one that is closed


def test_a_server_reaches_no_private_name(host):
    """Of its environments; what an operator has opened can be reached."""
    pool = host(COUNT, num_envs=2)
    for name in ("__init__", "_tag"):
        with pytest.raises(ForbiddenEnv, match="underscore"):
            pool.call(name)
    pool.open_names = ("*:_elapsed_*",)
    with pytest.raises(EnvFault, match="_elapsed_nothing"):
        pool.call("_elapsed_nothing")


def test_more_than_a_message_takes_is_not_kept(host, monkeypatch):
    """Of what a worker says beyond its side area: the pool says how it ended, and goes on."""
    pool = host(odd("LongText-v0"), num_envs=3, workers=2)
    _reset(pool)
    monkeypatch.setattr(crew_module, "MAX_EXT", 1 << 20)
    pool.most_said = 1 << 20
    pool.begin_step(*pool.actions.encode(pool.actions.coerce(["a" * 3_000_000, "", "b" * 3_000_000])))
    with pytest.raises(MessageTooLarge, match=f"of {(1 << 20) + 2} bytes"):
        pool.finish()
    pool.begin_step(*pool.actions.encode(pool.actions.coerce(["", "c", ""])))
    assert texts(pool.finish()) == ["", "c", ""]
