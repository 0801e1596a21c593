"""The pieces of one step, each alone: ``pytest benchmarks/test_pieces.py --benchmark-enable``."""

from __future__ import annotations

import os

import gymnasium
import numpy as np
import pytest

from benchmarks.row_overhead import Arena, row_overhead_us
from vecserver.arena.doorbell import Doorbell, FinishLine, make_bell, make_tokens
from vecserver.engine.base import ResetCommand
from vecserver.engine.envs import EnvsEngine
from vecserver.wire.actions import ActionFormat
from vecserver.wire.codec import pack, unpack
from vecserver.wire.frames import Header, Kind, digest_of
from vecserver.wire.layout import Layout

ROWS = 64

HEADER = Header(kind=Kind.STEP, lease=1, epoch=2**62 + 1, seq=123_456, t_steps=1, digest=0xDEADBEEF, body_length=512)

INFOS = {
    "an episode's end": [[7, {"episode": {"r": 195.0, "l": 195, "t": 1.25}, "TimeLimit.truncated": True}]],
    "a number a row": [[row, {"x_position": row / 3, "reward_survive": 1.0}] for row in range(ROWS)],
    "arrays": [[row, {"final_obs": np.arange(4, dtype=np.float32), "mask": np.ones(9, np.int8)}] for row in range(8)],
}

ACTION_SPACES = {
    "Discrete": gymnasium.spaces.Discrete(2),
    "Box": gymnasium.spaces.Box(-1, 1, (6,), np.float32),
    "Dict": gymnasium.spaces.Dict(
        move=gymnasium.spaces.Box(-1, 1, (3,), np.float32), grip=gymnasium.spaces.Discrete(2)
    ),
}


class TestHeader:
    def test_pack(self, benchmark):
        assert len(benchmark(HEADER.pack)) == 64

    def test_unpack(self, benchmark):
        assert benchmark(Header.unpack, HEADER.pack()) == HEADER

    def test_digest_of_a_batch_of_actions(self, benchmark):
        assert benchmark(digest_of, b"", bytes(8 * ROWS))


@pytest.mark.parametrize("infos", INFOS.values(), ids=INFOS)
class TestCodec:
    def test_pack(self, benchmark, infos):
        assert benchmark(pack, infos)

    def test_unpack(self, benchmark, infos):
        assert len(benchmark(unpack, pack(infos))) == len(infos)


@pytest.mark.parametrize("space", ACTION_SPACES.values(), ids=ACTION_SPACES)
class TestActions:
    @pytest.fixture
    def form(self, space):
        return ActionFormat(space, ROWS)

    @pytest.fixture
    def batch(self, space):
        return gymnasium.vector.utils.batch_space(space, ROWS).sample()

    def test_coerce(self, benchmark, form, batch):
        assert benchmark(form.coerce, batch)

    def test_check(self, benchmark, form, batch):
        benchmark(form.check, form.coerce(batch))

    def test_encode(self, benchmark, form, batch):
        assert benchmark(form.encode, form.coerce(batch))

    def test_decode(self, benchmark, form, batch):
        ext, body = form.encode(form.coerce(batch))
        assert benchmark(form.decode, ext, bytes(body))


def test_ring_and_take_a_bell(benchmark):
    fd = make_bell()
    bell = Doorbell(fd)

    def ring_and_take():
        bell.ring()
        return bell.take()

    assert benchmark(ring_and_take) == 1
    os.close(fd)


@pytest.fixture
def arena():
    env = gymnasium.make("CartPole-v1")
    made = Arena(env, ROWS)
    env.close()
    yield made
    os.close(made.fd)


def test_take_a_bell_in_vain(benchmark):
    fd = make_bell()
    assert benchmark(Doorbell(fd).take) == 0
    os.close(fd)


def test_arm_and_cross_the_finish_line_of_two_workers(benchmark):
    fds = [make_tokens(), make_bell()]
    finish = FinishLine(fds[0], Doorbell(fds[1]))

    def command():
        finish.arm(2)
        finish.cross()
        finish.cross()
        return finish.bell.take()

    assert benchmark(command) == 1
    for fd in fds:
        os.close(fd)


def test_copy_a_slot(benchmark, arena):
    source = arena.views.slot_bytes[0]
    assert len(benchmark(bytes, source)) == arena.layout.slot_size


@pytest.mark.parametrize("shape", [(4,), (84, 84, 4)], ids=["64 × 4 float32", "64 × 84 × 84 × 4 float32"])
def test_copy_the_arrays_of_a_slot(benchmark, shape):
    """What a driver of shared memory does with each batch."""
    layout = Layout.of(gymnasium.spaces.Box(-1, 1, shape, np.float32), ROWS)
    views = layout.views(bytearray(layout.slot_size))

    def copy():
        return [leaf.copy() for leaf in (*views.observations, views.rewards, views.terminated, views.truncated)]

    assert benchmark(copy)[0].shape == (ROWS, *shape)


def test_view_a_slot(benchmark, arena):
    body = bytearray(arena.layout.slot_size)
    assert benchmark(arena.layout.views, body).rewards.shape == (ROWS,)


def test_store_actions(benchmark, arena):
    batch = arena.actions.coerce(np.ones(ROWS, np.int64))
    benchmark(arena.actions.store, batch, arena.views.actions, arena.views.codes)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_step_a_shard_of_cartpoles(benchmark, arena, mode):
    """A worker's whole work for a batch of 64 rows; the next test is what the environments alone cost."""
    engine = EnvsEngine(lambda _row: gymnasium.make("CartPole-v1"), (0, ROWS), mode)
    engine.bind(arena.shard)
    engine.reset(0, ResetCommand([*range(ROWS)], None, None))
    arena.actions.store([np.arange(ROWS) % 2], arena.views.actions, arena.views.codes)
    benchmark(engine.step, 1)
    engine.close()


def test_step_the_same_cartpoles_bare(benchmark):
    envs = [gymnasium.make("CartPole-v1") for _ in range(ROWS)]
    for row, env in enumerate(envs):
        env.reset(seed=row)
    calls = [(env.step, env.reset, np.int64(row % 2)) for row, env in enumerate(envs)]

    def step_all():
        for step, reset, action in calls:
            _, _, terminated, truncated, _ = step(action)
            if terminated or truncated:
                reset()

    benchmark(step_all)
    for env in envs:
        env.close()


def test_a_row_costs_the_workers_loop_little_more_than_its_environment(benchmark):
    """At most 0.8 µs for CartPole: the engine's step less the environments' own, in turns in one process."""
    overheads = []
    benchmark.pedantic(lambda: overheads.append(row_overhead_us()), rounds=3)
    benchmark.extra_info["row_overhead_us"] = min(overheads)
    assert min(overheads) <= 0.8, f"{min(overheads):.2f} µs a row"
