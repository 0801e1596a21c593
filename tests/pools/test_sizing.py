"""How many workers a pool has, and that finding it out leaves no trace in the pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import env_id
from tests.pools.odd_environments import LoggedEnv, odd
from vecserver.engine.measuring import row_us
from vecserver.pools.sizing import RowCosts, best_workers, is_measured, most_workers
from vecserver.pools.spec import Caps, PoolSpec

CAPS = Caps()
LOGGED = odd("Logged-v0")


@pytest.mark.parametrize(
    ("rows", "most", "cost", "workers"),
    [
        (64, 2, 5.8, 2),
        (2, 2, 5.8, 2),
        (2, 2, 1.0, 1),  # as cheap as nothing
        (64, 64, 5.8, 8),
        (64, 64, 1000.0, 64),
        (7, 4, 1000.0, 4),
        (9, 4, 1000.0, 3),  # a fourth would not make the longest shard shorter
        (64, 8, None, 8),  # not known: taken for a heavy one
        (1, 1, 5.8, 1),
    ],
)
def test_the_number_whose_batches_are_the_shortest(rows, most, cost, workers):
    """More workers make shards shorter, and each costs a ring."""
    assert best_workers(rows, most, cost) == workers


def test_it_is_measured_only_where_something_depends_on_it(monkeypatch):
    """Not with ``workers``, one row, one core, or an engine that has its own number."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))

    def measured(caps=CAPS, **options):
        return is_measured(PoolSpec(**{"env_id": "CartPole-v1", "num_envs": 8} | options), caps)

    assert measured()
    assert measured(engine="envs")
    for options in ({"workers": 2}, {"num_envs": 1}, *({"engine": each} for each in ("async", "sync", "native"))):
        assert not measured(**options)
    assert not measured(Caps(max_workers=1))
    assert most_workers(PoolSpec(env_id="CartPole-v1", num_envs=3), Caps()) == 3


def test_costs_are_known_by_what_a_row_is_made_of():
    """Whatever the number of rows and the pool's other options; the oldest are forgotten."""
    costs = RowCosts()
    spec = PoolSpec(env_id="a", num_envs=3, env_kwargs={"x": 1, "y": 2})
    costs.note(spec, 5.0)
    assert costs.get(PoolSpec(env_id="a", num_envs=9, env_kwargs={"y": 2, "x": 1}, autoreset_mode="SameStep")) == 5.0
    for other in ({"env_id": "b"}, {"env_kwargs": {}}, {"wrappers": ["ClipAction"]}, {"render_mode": "rgb_array"}):
        assert costs.get(PoolSpec(**{"env_id": "a", "num_envs": 3, "env_kwargs": {"x": 1, "y": 2}} | other)) is None
    for number in range(256):
        costs.note(PoolSpec(env_id=f"e{number}", num_envs=1), 1.0)
    assert costs.get(spec) is None
    assert costs.get(PoolSpec(env_id="e255", num_envs=1)) == 1.0


def test_what_cannot_be_measured_is_tried_twice():
    """Modules may be slow to load once; whatever takes long again is taken for heavy, and costs no later pool anything."""
    costs, spec = RowCosts(), PoolSpec(env_id="a", num_envs=3)
    costs.note(spec, None)
    assert costs.get(spec) is None
    costs.note(spec, None)
    assert best_workers(64, 8, costs.get(spec)) == 8
    costs.note(spec, 2.0)
    costs.note(spec, None)
    assert costs.get(spec) == 2.0


def test_an_environment_that_takes_long_is_made_for_timing_twice_and_what_it_started_ends(pool, tmp_path):
    """From the third pool on there are the pool's own environments alone."""
    pids = tmp_path / "pids"
    spec = PoolSpec(env_id=odd("Starting-v0"), num_envs=2, env_kwargs={"pids": str(pids), "first_waits": True})
    if most_workers(spec, Caps()) == 1:
        pytest.skip("one core: nothing is measured")

    def started():
        pids.write_text("")
        pool(spec)
        return pids.read_text().split()

    first, *own = started()
    assert len(own) == 2
    assert not Path(f"/proc/{first}").exists(), "it was killed, and what it had started"
    assert len(started()) == 3
    pids.write_text("nobody's\n")
    pool(spec)
    assert len(pids.read_text().split()) == 3, "two, behind what stood there"


def test_a_step_is_timed_and_the_environment_closed(tmp_path):
    """In microseconds; one that sleeps for two milliseconds takes at least as long."""
    log = tmp_path / "log"
    assert 2000 <= row_us(lambda _: LoggedEnv(str(log), sleep_s=0.002)) < 50_000
    assert log.read_text().split() == ["made", "closed"]


def test_creation_measures_once_and_none_of_it_is_seen(pool, tmp_path):
    """One environment more is made and closed before the pool's own; the next pool, and one with ``workers``, has none."""
    log = tmp_path / "log"

    def made(num_envs, **options):
        log.write_text("")
        view = pool(PoolSpec(env_id=LOGGED, num_envs=num_envs, env_kwargs={"log": str(log)}, **options))
        return view.info.workers, log.read_text().split()

    cores = most_workers(PoolSpec(env_id=LOGGED, num_envs=3), Caps())
    if cores == 1:
        pytest.skip("one core: nothing is measured")
    assert made(3, workers=1) == (1, ["made"] * 3)
    workers, log_of_first = made(3)
    assert log_of_first == ["made", "closed", *["made"] * 3]
    assert made(2)[1] == ["made"] * 2
    assert workers >= 1


@pytest.mark.parametrize(
    "options", [{"where": "step", "kind": "value", "at": 1}, {"where": "reset", "kind": "systemexit", "at": 0}]
)
def test_an_environment_that_cannot_be_timed_is_taken_for_a_heavy_one(pool, options):
    """What it raises it raises again in the pool, where somebody hears of it."""
    spec = PoolSpec(env_id=env_id("Raise-v0"), num_envs=2, env_kwargs=options)
    assert pool(spec).info.workers == most_workers(spec, Caps())
