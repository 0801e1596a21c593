"""With ``dedup="frames"`` only new frames travel, and every observation is what it would have been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

import vecserver_client as vs
from tests.clients.wires import Relay
from tests.contract.compare import assert_same, assert_same_batch, run_both
from tests.contract.vector_contract import make_oracle
from tests.environments import env_id
from tests.sampling import in_turn
from vecserver.wire.actions import ActionFormat
from vecserver.wire.errors import InvalidSpec, MalformedMessage
from vecserver.wire.frames import Flag, Header, Kind
from vecserver.wire.layout import Layout
from vecserver.wire.stacks import StackFormat
from vecserver_client import factory
from vecserver_client.link import PoolLink
from vecserver_client.transport import ZmqTransport

STACK = env_id("Stack-v0")
TRANSPORTS = ["shm", "ipc", "tcp", "network"]
with_copies_or_not = pytest.mark.parametrize("copy", [True, False], ids=["copy", "no copy"])


@pytest.fixture
def unpacked(monkeypatch) -> list[int]:
    """The lengths of the packed bodies that arrive."""
    lengths: list[int] = []
    unpack = StackFormat.unpack

    def noted(self, body, before, slot) -> None:
        lengths.append(len(body))
        unpack(self, body, before, slot)

    monkeypatch.setattr(StackFormat, "unpack", noted)
    return lengths


@pytest.fixture
def make(server, monkeypatch) -> Iterator[Callable[..., vs.RemoteVectorEnv]]:
    """Makes pools whose stacks are packed; closed after the test."""
    with ExitStack() as stack:

        def make_one(transport: str, num_envs: int = 3, name: str = STACK, **options) -> vs.RemoteVectorEnv:
            if transport == "network":  # as other machines are reached
                monkeypatch.setattr(factory, "_opener", partial(partial, ZmqTransport))
                transport = "tcp"
            options = {"dedup": "frames", "transport": transport, "url": server.url} | options
            envs = vs.make_vec(name, num_envs, **options)
            stack.callback(envs.close, terminate=True)
            return envs

        yield make_one


@in_turn("transport, copy, mode", TRANSPORTS, [True, False], list(AutoresetMode))
def test_every_result_equals_the_oracle(make, unpacked, transport, copy, mode):
    """Across ends of episodes, resets of some rows, stacks that stand still or jump."""
    options = {"autoreset_mode": mode}
    with closing(make_oracle(STACK, 4, **options)) as oracle:
        envs = make(transport, 4, copy=copy, **options)
        assert run_both(envs, oracle, 40, seed=10) >= 4
        assert run_both(envs, oracle, 5, seed=11) >= 0
    assert bool(unpacked) == (transport != "shm")


@pytest.mark.parametrize("kwargs", [{"axis": -1}, {"shape": [40, 40]}, {"shape": [40, 40], "axis": -1}, {"depth": 2}])
def test_every_shape_of_a_stack_equals_the_oracle(make, unpacked, kwargs):
    """The newest frame last in either outer axis, in bodies small and large."""
    with closing(make_oracle(STACK, 4, **kwargs)) as oracle:
        run_both(make("ipc", 4, **kwargs), oracle, 25, seed=2)
    assert unpacked


def test_an_image_is_a_stack_of_its_colours(make):
    """Which never moves on: everything travels whole, and is right."""
    with closing(make_oracle(env_id("Big-v0"), 2)) as oracle:
        run_both(make("ipc", 2, env_id("Big-v0")), oracle, 12, seed=2)


@with_copies_or_not
def test_results_do_not_depend_on_what_the_caller_does_with_them(make, unpacked, copy):
    """Observations that are its own may be written to; the next ones are not packed against these."""
    with closing(make_oracle(STACK, 3, length=9)) as oracle:
        envs = make("tcp", copy=copy, length=9)
        assert_same(envs.reset(seed=4), oracle.reset(seed=4), "reset")
        for number in range(20):
            actions = np.full(3, number % 5)
            got, expected = envs.step(actions), oracle.step(actions)
            assert_same_batch(got, expected, f"step {number}")
            if copy:
                got[0][...] = 77
            got[1][...] = 77
    assert unpacked


def test_calls_and_failed_batches_in_between_change_nothing(make, unpacked):
    """Requests whose answers have no observations leave the last ones to go on from."""
    with closing(make_oracle(STACK, 3, length=30)) as oracle:
        envs = make("ipc", length=30)
        assert_same(envs.reset(seed=4), oracle.reset(seed=4), "reset")
        for number in range(8):
            envs.call("add", 1)
            with pytest.raises(ValueError, match="outside"):
                envs.step(np.array([0, 9, 0]))
            assert_same_batch(envs.step(np.ones(3, np.int64)), oracle.step(np.ones(3, np.int64)), f"step {number}")
    assert len(unpacked) > 4


def test_connections_that_are_cut_change_nothing(server, monkeypatch, unpacked):
    """Answers that are sent again are packed against the same observations."""
    patience = iter([20_000, *np.random.default_rng(5).integers(50, 6000, 25).tolist()])
    with ExitStack() as stack:
        relays: list[Relay] = []

        def reachable(name, endpoints, url):
            relays.append(stack.enter_context(closing(Relay(endpoints["tcp"], patience))))
            return relays[-1].endpoint

        monkeypatch.setattr(factory, "reachable_endpoint", reachable)
        envs = vs.make_vec(STACK, 4, url=server.url, transport="tcp", dedup="frames")
        stack.callback(envs.close)
        oracle = stack.enter_context(closing(make_oracle(STACK, 4)))
        run_both(envs, oracle, 120, seed=3)
        assert relays[0].cuts >= 10
    assert len(unpacked) > 50


def test_a_driver_that_comes_later_begins_with_whole_slots(make, server, unpacked):
    """It has nothing to unpack against; its first step is the oracle's all the same."""
    with closing(make_oracle(STACK, 3)) as oracle:
        envs = make("ipc")
        assert_same(envs.reset(seed=6), oracle.reset(seed=6), "reset")
        actions = np.full(3, 2)
        assert_same_batch(envs.step(actions), oracle.step(actions), "step")
        unpacked.clear()
        with closing(vs.attach(server.url, envs.pool, transport="tcp", dedup="frames", force=True)) as other:
            assert_same_batch(other.step(actions), oracle.step(actions), "first step")
            assert not unpacked
            assert_same_batch(other.step(actions), oracle.step(actions), "second step")


def test_a_pool_of_other_observations_is_refused(server):
    """By name, and nothing of it is left."""
    with vs.ControlClient(server.url) as control:
        before = len(control.list_pools())
        with pytest.raises(InvalidSpec, match="no stack of frames"):
            vs.make_vec("CartPole-v1", 2, url=server.url, dedup="frames")
        assert len(control.list_pools()) == before


def test_a_refused_option_takes_nobodys_pool(server):
    """A client that wants what the pool has not is refused before it is the driver."""
    with closing(vs.make_vec("CartPole-v1", 2, url=server.url)) as envs:
        envs.reset(seed=0)
        with pytest.raises(InvalidSpec, match="no stack of frames"):
            vs.attach(server.url, envs.pool, dedup="frames", force=True)
        envs.step(np.zeros(2, np.int64))


def test_another_word_is_refused(server):
    """Before anything is made."""
    with pytest.raises(InvalidSpec, match="'planes'"):
        vs.make_vec(STACK, 2, url=server.url, dedup="planes")


class Canned:
    """A connection that notes on what base it is asked, and gives these answers."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers, self.bases = list(answers), []

    def begin(self, kind, ext, body, timeout, base=None) -> None:
        self.bases.append(base)

    def finish(self, timeout):
        flags, body = self.answers.pop(0)
        return Header(Kind.STEP, flags, seq=len(self.bases), body_length=len(body)), b"", body


SPACE = Box(0, 255, (2, 40), np.uint8)
LAYOUT = Layout.of(SPACE, 2)
ACTIONS = ActionFormat(Discrete(5), 2)
WHOLE = (int(Flag.ANSWER), bytes(LAYOUT.slot_size))
PACKED = (int(Flag.ANSWER | Flag.FRAMES), b"\1\1" + bytes([5] * 40 + [6] * 40) + bytes(256))
BROKEN = (PACKED[0], PACKED[1][:-1])


def step(link: PoolLink) -> list[list[int]]:
    link.begin_step([np.zeros(2, np.int64)], 1.0)
    views = link.finish(1.0).views
    assert views is not None
    return views.observations[0][:, :, 0].tolist()


def test_a_request_names_the_last_answer_that_could_be_read():
    """None at first; one that is broken is no base, and the next may be packed against the one before it."""
    canned = Canned(WHOLE, PACKED, BROKEN, PACKED)
    link = PoolLink(canned, LAYOUT, ACTIONS, stacks=StackFormat.of(LAYOUT, SPACE))
    assert [step(link), step(link)] == [[[0, 0], [0, 0]], [[0, 5], [0, 6]]]
    with pytest.raises(MalformedMessage):
        step(link)
    assert step(link) == [[5, 5], [6, 6]]
    assert canned.bases == [0, 1, 2, 2]


@pytest.mark.parametrize("stacks", [None, StackFormat.of(LAYOUT, SPACE)], ids=["not asked for", "without a base"])
def test_a_packed_answer_that_cannot_be_right_is_refused(stacks):
    """Where it was not asked for, and where there is nothing to unpack it against."""
    link = PoolLink(Canned(PACKED), LAYOUT, ACTIONS, stacks=stacks)
    with pytest.raises(MalformedMessage, match="not asked for"):
        step(link)
