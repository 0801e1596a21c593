"""A pool on the network: what strangers send does not keep its driver from stepping."""

from __future__ import annotations

import random
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.contract.compare import assert_same
from tests.contract.vector_contract import make_oracle
from tests.environments import env_id
from tests.pools.processes import Watched, processor_time, wait_for
from tests.pools.registries import open_registry
from vecserver.pools.spec import PoolSpec
from vecserver.wire import messages
from vecserver.wire.codec import pack, unpack
from vecserver.wire.errors import EnvFault, LeaseHeld
from vecserver.wire.frames import MAX_EXT, Flag, Header, Kind, digest_of

COUNT = env_id("Count-v0")


@pytest.fixture(scope="module", params=["127.0.0.1", "0.0.0.0"], ids=["loopback", "network"])
def registry(request):
    """A registry whose pools listen on plain sockets, or on the network with libzmq's."""
    with open_registry(bind_host=request.param) as registry:
        yield registry


@pytest.fixture(scope="module")
def view(registry):
    """A pool whose episodes do not end, shared by the tests."""
    view = registry.create(PoolSpec(env_id=COUNT, num_envs=3, workers=2, env_kwargs={"length": 10**9}))
    yield view
    registry.delete(view.pool)


@pytest.fixture
def honest(view, driver):
    """The pool's driver, whose every step is checked."""

    class Honest:
        def __init__(self) -> None:
            self.driver = driver(view)
            self.steps = 0
            assert self.driver.reset(seed=5).observations[0][:, 0].tolist() == [5, 6, 7]

        def step(self) -> None:
            self.steps += 1
            observations = self.driver.step(np.array([1, 2, 3])).observations[0]
            assert observations[:, 2:4].tolist() == [[self.steps, action] for action in (1, 2, 3)]

    honest = Honest()
    yield honest
    honest.step()
    honest.driver.ask(Kind.DETACH, **honest.driver.name)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_both_transports_give_the_same(view, driver, transport):
    """A driver over either gets a slot's bytes, numbered and named."""
    peer = driver(view, transport)
    assert peer.reset(seed=1).observations[0][:, 0].tolist() == [1, 2, 3]
    ext, body = peer.format.encode([np.array([0, 1, 2])])
    answer = peer.run(Kind.STEP, ext, bytes(body))
    header = answer.header
    assert (header.kind, header.flags, header.seq, header.rows, header.t_steps) == (Kind.STEP, Flag.ANSWER, 2, 3, 1)
    assert (header.lease, header.epoch, header.body_length) == (*peer.name.values(), peer.layout.slot_size)
    assert peer.views(answer).observations[0][:, 2:4].tolist() == [[1, 0], [1, 1], [1, 2]]
    infos = [entry for worker in unpack(answer.ext) for entry in worker]
    assert [(row, info["steps"]) for row, info in infos] == [(0, 1), (1, 1), (2, 1)]
    peer.ask(Kind.DETACH, **peer.name)


def test_large_slots_arrive_whole(registry, driver):
    """Slots that are handed over without a copy are the oracle's to the bit, batch after batch."""
    view = registry.create(PoolSpec(env_id=env_id("Big-v0"), num_envs=3, workers=2))
    peer, oracle = driver(view), make_oracle(env_id("Big-v0"), 3)
    assert_same(peer.reset(seed=3).observations[0], oracle.reset(seed=3)[0], "reset")
    kept = []
    for number in range(8):
        actions = np.array([number % 5] * 3)
        expected = oracle.step(actions)
        slot = peer.step(actions)
        assert_same(slot.observations[0], expected[0], f"observations of step {number}")
        assert_same(slot.rewards, expected[1], f"rewards of step {number}")
        kept.append((slot.observations[0], expected[0]))
    oracle.close()
    registry.delete(view.pool)


def test_observers_look_while_a_driver_steps(view, honest, peer):
    """Over another transport, without a lease: counters, description and a refusal to drive."""
    observer = peer(view.endpoints["ipc"])
    for _ in range(3):
        honest.step()
        stats = messages.decode(observer.ask(Kind.PING).ext, messages.Stats)
        assert (stats.driver, stats.state) == ("tcp", "ready")
        assert isinstance(observer.ask(Kind.ATTACH, messages.Attach()).error, LeaseHeld)
        described = observer.ask(Kind.ATTACH, messages.Attach(drive=False))
        assert messages.decode(described.ext, messages.Attached).info == view.info


def test_calls_and_large_results_travel(view, honest):
    """A method's megabytes come back by way of the worker's socket and the network."""
    value = np.arange(500_000, dtype=np.float64)
    answer = honest.driver.run(Kind.CALL, messages.Call("echo", pack([[value], {}])))
    results = [result for worker in unpack(answer.ext) for result in worker]
    assert_same(results, [value] * 3, "results")
    error = honest.driver.run(Kind.CALL, messages.Call("no_such_method", pack([[], {}]))).error
    assert isinstance(error, EnvFault)
    assert error.type == "AttributeError"


def test_a_driver_may_come_back_on_another_socket(registry, peer, driver, tmp_path):
    """A request whose socket was closed runs once; whoever repeats it is told how far it is and gets its answer."""
    gate = tmp_path / "gate"
    spec = PoolSpec(env_id=env_id("Slow-v0"), num_envs=1, env_kwargs={"gate": str(gate), "at": 1, "length": 9})
    view = registry.create(spec)
    first = driver(view)
    first.reset(seed=4)
    ext, body = first.format.encode([np.array([1])])
    step = {"seq": 2, **first.name}
    header = Header(Kind.STEP, digest=digest_of(ext, body), body_length=len(body), **step)
    first.send([header.pack(), ext, bytes(body)])
    second = peer(view.endpoints["ipc"])
    wait_for(lambda: second.ask(Kind.STEP, ext, bytes(body), **step).header.kind == Kind.IN_PROGRESS)
    first.socket.close()
    gate.touch()
    answer = second.receive()
    assert (answer.header.kind, answer.header.flags) == (Kind.STEP, Flag.ANSWER)
    again = peer(view.endpoints["tcp"]).ask(Kind.STEP, ext, bytes(body), **step)
    assert again.header.flags == Flag.ANSWER | Flag.REPLAYED
    assert again.body == answer.body
    assert registry.get(view.pool).stats.batches == 1
    registry.delete(view.pool)


def test_what_is_no_message_is_answered_and_forgotten(view, honest, peer):
    """Random bytes, cut messages and wrong numbers of frames; the honest driver steps on between them."""
    rng = random.Random(7)
    stranger = peer(view.endpoints["tcp"])
    whole = [Header(Kind.STEP, seq=2, body_length=24, **honest.driver.name).pack(), b"", bytes(24)]
    for turn in range(60):
        frames = [rng.randbytes(rng.choice([0, 1, 63, 64, 65, 500])) for _ in range(rng.randint(1, 6))]
        if turn % 3 == 1:
            frames = [frame[: rng.randint(0, len(frame))] for frame in whole[: rng.randint(1, 3)]]
        elif turn % 3 == 2:
            frames = [*whole, *frames]
        stranger.send(frames)
        assert stranger.receive().error.code in ("malformed_message", "lease_lost", "version_mismatch")
        if turn % 20 == 0:
            honest.step()


def test_a_message_that_is_too_large_is_refused(view, honest, peer):
    """Larger than any action batch, it is answered; larger than any message, its sender is cut off."""
    stranger = peer(view.endpoints["ipc"])
    body = bytes(view.info.max_request + 1)
    assert stranger.ask(Kind.STEP, b"", body, seq=1).error.code == "message_too_large"
    honest.step()
    used = messages.decode(stranger.ask(Kind.PING).ext, messages.Stats).host_rss_bytes
    stranger.send([Header(Kind.HELLO).pack(), bytes(MAX_EXT + 1), b""])
    assert stranger.receive(300) is None
    honest.step()
    assert (
        messages.decode(peer(view.endpoints["ipc"]).ask(Kind.PING).ext, messages.Stats).host_rss_bytes
        < used + MAX_EXT // 2
    )


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 64, b"\xff\0\0\0\0\0\0\0\x01\x7f", b""]
)
def test_a_stranger_that_does_not_speak_zeromq_is_ignored(view, honest, data):
    """A browser, a port scanner, a cut greeting."""
    address = urlsplit(view.endpoints["tcp"])
    with socket.create_connection((address.hostname, address.port), timeout=30) as stranger:
        stranger.sendall(data)
        honest.step()
    honest.step()


def test_a_peer_that_does_not_read_blocks_nobody(view, honest, peer):
    """Answers for which a peer has no room are dropped; the driver's are not."""
    deaf = peer(view.endpoints["tcp"], RCVHWM=1, RCVBUF=4096, SNDHWM=0)
    described = messages.encode(messages.Attach(drive=False))
    for _ in range(3000):
        deaf.send([Header(Kind.ATTACH).pack(), described, b""])
    for _ in range(3):
        honest.step()


def test_a_peer_that_leaves_before_its_answer_hurts_nobody(view, honest, context, peer):
    """An answer to nobody is dropped."""
    for _ in range(20):
        stranger = peer(view.endpoints["tcp"])
        for _ in range(5):
            stranger.send([Header(Kind.PING).pack(), b"", b""])
        stranger.socket.close()
    honest.step()


def test_an_idle_pool_uses_no_processor_time(view, honest):
    """Between requests the host and its workers wait."""
    honest.step()
    pids = [view.host_pid, *view.stats.worker_pids]
    before = [processor_time(pid) for pid in pids]
    with Watched(*pids) as processes:
        assert processes.running(0.5) == pids
    assert max(processor_time(pid) - start for pid, start in zip(pids, before, strict=True)) <= 0.1
