"""Durable pools: made again when their host ends and when the server starts again, with limits, and never silently."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.environments import env_id
from tests.pools.odd_environments import odd
from tests.pools.processes import Watched, wait_for
from tests.pools.registries import open_registry
from vecserver.pools.handshake import EXPIRED, HostReady
from vecserver.pools.hosts import NoHost
from vecserver.pools.keeping import Attempts, Keeper
from vecserver.pools.listing import Listing, Made, Reservation
from vecserver.pools.results import unmade
from vecserver.pools.spec import Caps, PoolSpec
from vecserver.pools.store import FILE, DurablePool, PoolStore
from vecserver.pools.supervision import Supervisor
from vecserver.wire.errors import (
    CapExceeded,
    EnvCreationFailed,
    EpochMismatch,
    InvalidSpec,
    PoolLost,
    PoolStopping,
    StateUnavailable,
    UnknownPool,
)

COUNT = PoolSpec(env_id=env_id("Count-v0"), num_envs=2, workers=1)


def kill_host(view):
    with Watched(view.host_pid, *view.stats.worker_pids) as processes:
        processes.signal(view.host_pid, signal.SIGKILL)
        assert not processes.running()


def is_again(registry, before):
    return lambda: (now := registry.get(before.pool)).state == "ready" and now.epoch != before.epoch


def test_a_pool_is_made_again_when_its_host_is_killed(make_registry, tmp_path):
    """Under its name, with a new epoch, without any episode; views say how often and why."""
    registry = make_registry(store=PoolStore(tmp_path))
    view = registry.create(COUNT, "train", durable=True)
    assert (view.durable, view.restarts, view.last_loss) == (True, 0, "")
    registry.reset("train", seed=5)
    for restarts in (1, 2):
        kill_host(view)
        wait_for(is_again(registry, view))
        again = registry.get("train")
        assert (again.durable, again.restarts, again.spec, again.created) == (True, restarts, COUNT, view.created)
        assert again.last_loss == "The host process was killed by SIGKILL"
        assert (again.stats.resets, again.stats.batches) == (0, 0)
        view = again
    assert registry.reset("train", seed=5).observations[:, 0].tolist() == [5, 6]


def test_a_pool_that_is_lost_says_what_becomes_of_it(make_registry, tmp_path):
    """While it has no host, requests are told that it is lost, why, and when it is made again."""
    registry = make_registry(store=PoolStore(tmp_path))
    gate = tmp_path / "gate"
    gate.touch()
    view = registry.create(
        PoolSpec(env_id=odd("Gated-v0"), num_envs=1, env_kwargs={"gate": str(gate)}), "g", durable=True
    )
    gate.unlink()
    kill_host(view)
    wait_for(lambda: "being made again" in registry.get("g").reason)
    lost = registry.get("g")
    assert (lost.state, lost.stats, lost.exitcode, lost.epoch) == ("lost", None, -9, view.epoch)
    for call in (lambda: registry.step("g", [0]), lambda: registry.reset("g")):
        with pytest.raises(PoolLost, match=r"killed by SIGKILL; it is being made again"):
            call()
    gate.touch()
    wait_for(is_again(registry, view))


def test_the_pools_of_the_store_are_there_after_a_restart(tmp_path):
    """Those that were made durable and not deleted; a host that is killed in between changes nothing."""
    with open_registry(store=PoolStore(tmp_path)) as first:
        epochs = {name: first.create(COUNT, name, durable=name != "brief").epoch for name in ("a", "brief", "gone")}
        first.delete("gone")
    with open_registry(store=PoolStore(tmp_path)) as second:
        second.restore()
        assert second.restoring == ["a"]
        wait_for(lambda: not second.restoring)
        (view,) = second.list()
        assert (view.pool, view.state, view.durable, view.spec, view.restarts) == ("a", "ready", True, COUNT, 0)
        assert view.epoch not in epochs.values()
        second.delete("a")
    with closing(PoolStore(tmp_path)) as store:
        assert store.load() == []


def test_declared_pools_need_no_store_and_come_back(make_registry, tmp_path):
    """Those of the settings go before those of the store; deleting one lasts until the next start."""
    other = PoolSpec(env_id=env_id("Count-v0"), num_envs=1, workers=1)
    with closing(PoolStore(tmp_path)) as store:
        store.add(DurablePool("train", other))
    for _ in range(2):
        with open_registry(store=PoolStore(tmp_path)) as registry:
            registry.restore([DurablePool("train", COUNT)])
            wait_for(lambda: not registry.restoring)
            assert registry.get("train").spec == COUNT
            registry.delete("train")
            with pytest.raises(UnknownPool):
                registry.get("train")
    alone = make_registry()
    alone.restore([DurablePool("train", COUNT)])
    wait_for(lambda: alone.get("train").state == "ready")


def test_a_pool_that_cannot_be_made_is_listed_with_its_reason(make_registry, tmp_path):
    """The server starts without it, tries again, and makes it when the trouble is over; it can be deleted before."""
    registry, flag = make_registry(), tmp_path / "installed"
    flaky = PoolSpec(env_id=odd("Flaky-v0"), num_envs=1, env_kwargs={"flag": str(flag)})
    unknown = PoolSpec(env_id="NoSuchThing-v0", num_envs=1)
    registry.restore([DurablePool("flaky", flaky), DurablePool("unknown", unknown), DurablePool("fine", COUNT)])
    wait_for(lambda: not registry.restoring)
    views = {view.pool: view for view in registry.list()}
    assert [views[name].state for name in ("flaky", "unknown", "fine")] == ["lost", "lost", "ready"]
    assert "[env_creation_failed]" in views["flaky"].reason
    assert "is made again in 0.5 s" in views["flaky"].reason
    assert "[unknown_env]" in views["unknown"].reason
    assert (views["flaky"].epoch, views["flaky"].host_pid, views["flaky"].endpoints) == (0, 0, {})
    with pytest.raises(PoolLost, match="env_creation_failed"):
        registry.step("flaky", [0])
    registry.delete("unknown")
    flag.touch()
    wait_for(lambda: registry.get("flaky").state == "ready")
    assert registry.get("flaky").restarts == 0


def test_attempts_are_spaced_and_numbered():
    """At once, then ever later, and not at all after eight in ten minutes; old ones do not count."""
    attempts = Attempts()
    assert [attempts.next_pause(float(now)) for now in range(9)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, None]
    assert attempts.next_pause(601.5) == 16.0
    assert attempts.next_pause(5000.0) == 0.0


def test_a_pool_that_ends_again_and_again_stays_lost(monkeypatch):
    """When the attempts are used up it is not tried any more, and its prospect says so."""
    monkeypatch.setattr("vecserver.pools.keeping._FIRST_PAUSE_S", 0.0)
    tried = []

    def fail(pool):
        tried.append(pool)
        raise EnvCreationFailed("it is gone for good")

    with closing(Supervisor(lambda _: None)) as supervisor, closing(Keeper(None, supervisor, fail)) as keeper:
        keeper.lacks_host("train")
        wait_for(lambda: "not made again" in keeper.prospect("train"))
    assert tried == ["train"] * 8


def test_a_defect_is_an_attempt_like_others(monkeypatch, caplog):
    """Whatever goes wrong, it is logged and tried again; also where no thread is to be had."""
    tried = []

    def fail(pool):
        tried.append(pool)
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("vecserver.pools.keeping._FIRST_PAUSE_S", 0.0)
    with closing(Supervisor(lambda _: None)) as supervisor, closing(Keeper(None, supervisor, fail)) as keeper:
        keeper.lacks_host("train")
        wait_for(lambda: "not made again" in keeper.prospect("train"))
        assert tried == ["train"] * 8
        monkeypatch.setattr(threading.Thread, "start", refuse_thread)
        keeper.lacks_host("other")
        wait_for(lambda: "not made again" in keeper.prospect("other"))
    assert "ZeroDivisionError" in caplog.text
    assert "can't start new thread" in caplog.text


def refuse_thread(thread):
    raise RuntimeError("can't start new thread")


class Ended:
    """A process that somebody has ended: its descriptor is gone."""

    def give_pidfd(self) -> int:
        return -1


class Running(Ended):
    """A process that has not ended."""

    def give_pidfd(self) -> int:
        return os.pidfd_open(os.getpid())


def test_a_process_that_was_ended_already_is_not_watched():
    """Nor is any after the end; the thread goes on, and no descriptor is left."""
    called = threading.Event()
    with closing(Supervisor(lambda _: None)) as supervisor:
        supervisor.watch(Ended())
        supervisor.call_in(0.0, called.set)
        assert called.wait(30)
    before = sorted(Path("/proc/self/fd").iterdir())
    supervisor.watch(Running())
    supervisor.call_in(0.0, called.clear)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert not supervisor._watched


def test_nothing_is_made_of_a_pool_that_was_deleted(make_registry, tmp_path):
    """Deleting a durable pool while it is made again ends that; its name is free for another at once."""
    registry, gate = make_registry(store=PoolStore(tmp_path), grace=0.1), tmp_path / "gate"
    gate.touch()
    view = registry.create(
        PoolSpec(env_id=odd("Gated-v0"), num_envs=1, env_kwargs={"gate": str(gate)}), "g", durable=True
    )
    gate.unlink()
    kill_host(view)
    wait_for(lambda: (registry._listing.held("g")[0] or Reservation("g", 1)).process)
    registry.delete("g")
    assert registry.list() == []
    again = registry.create(COUNT, "g", durable=True)
    wait_for(lambda: not any(maker.is_alive() for maker in registry._keeper._makers))
    assert [(view.state, view.epoch) for view in registry.list()] == [("ready", again.epoch)]


def test_a_name_stays_with_its_last_maker():
    """A maker whose name was taken away, and taken again, frees nothing when it ends."""
    listing = Listing(Caps())
    first = listing.reserve("train", 1)
    listing.take("train")
    second = listing.reserve("train", 1)
    listing.give_up(first)
    assert listing.holds(second)
    listing.give_up(second)
    assert listing.held("train") == (None, None)


def test_a_server_ends_while_it_makes_pools(tmp_path):
    """Closing does not wait for environments that take for ever."""
    gated = PoolSpec(env_id=odd("Gated-v0"), num_envs=1, env_kwargs={"gate": str(tmp_path / "never")})
    with open_registry(grace=0.1) as registry:
        registry.restore([DurablePool("g", gated)])
        wait_for(lambda: (registry._listing.held("g")[0] or Reservation("g", 1)).process)


def test_a_server_without_a_store_keeps_nothing(make_registry):
    """A program's own server ends with it, and says so."""
    with pytest.raises(InvalidSpec, match="keeps no pools") as caught:
        make_registry().create(COUNT, durable=True)
    assert caught.value.details == {"field": "durable"}


def test_a_pool_that_cannot_be_kept_is_not_made(make_registry, tmp_path):
    """A store that cannot be used costs durable pools, and nothing else."""
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    registry = make_registry(store=PoolStore(tmp_path))
    registry.restore([DurablePool("declared", COUNT)])
    wait_for(lambda: registry.get("declared").state == "ready")
    with pytest.raises(StateUnavailable, match="is damaged"):
        registry.create(COUNT, "kept", durable=True)
    assert [view.pool for view in registry.list()] == ["declared"]
    assert registry.create(COUNT, "brief").state == "ready"
    registry.delete("declared")


def test_a_pool_that_cannot_be_forgotten_goes_on(make_registry, tmp_path):
    """Deleting it fails by name; when the disk is well again, it is deleted."""
    store = PoolStore(tmp_path)
    registry = make_registry(store=store)
    registry.create(COUNT, "train", durable=True)
    store._unusable = StateUnavailable("the disk is full")
    with pytest.raises(StateUnavailable):
        registry.delete("train")
    assert registry.get("train").state == "ready"
    store._unusable = None
    registry.delete("train")


def test_a_host_that_ends_leaves_nothing(make_registry, caplog):
    """Sockets and log of a host that was killed are removed at once, of pools that are not durable too."""
    registry = make_registry()
    view = registry.create(COUNT, "brief")
    kill_host(view)
    wait_for(lambda: not [*registry._maker._runtime_dir.iterdir()])
    wait_for(lambda: "lost: the host process was killed by SIGKILL" in caplog.text)
    assert registry.get("brief").state == "lost"
    assert registry.get("brief").reason == "the pool's host process was killed by SIGKILL"


def test_keys_outlive_the_host(make_registry, tmp_path):
    """A request that the host before has run is answered as it was then; a new one is run by the new host."""
    registry, digest = make_registry(store=PoolStore(tmp_path)), b"d"
    view = registry.create(COUNT, "train", durable=True)
    registry.reset("train", seed=1)
    first, _ = registry.run_once("train", "k", digest, lambda: registry.step("train", [1, 1]))
    kill_host(view)
    wait_for(lambda: registry.get("train").epoch != view.epoch)
    again, was_there = registry.run_once("train", "k", digest, lambda: registry.step("train", [1, 1]))
    assert was_there
    assert again is first
    assert registry.get("train").stats.batches == 0
    with pytest.raises(EpochMismatch):
        registry.step("train", [1, 1], epoch=view.epoch)
    _, was_there = registry.run_once("train", "l", digest, lambda: registry.reset("train"))
    assert not was_there


def test_a_key_of_a_server_before_is_run_by_nobody(make_registry):
    """Which keys there were is not known any more, so a request has to say which incarnation it is meant for."""
    registry = make_registry()
    registry.restore([DurablePool("train", COUNT)])
    wait_for(lambda: registry.get("train").state == "ready")
    epoch = registry.get("train").epoch
    with pytest.raises(EpochMismatch, match="Pool-Epoch") as caught:
        registry.run_once("train", "k", b"d", lambda: registry.reset("train"))
    assert caught.value.details["epoch"] == str(epoch)
    with pytest.raises(EpochMismatch):
        registry.run_once("train", "k", b"d", lambda: registry.reset("train", epoch=epoch - 1), epoch - 1)
    assert registry.get("train").stats.resets == 0
    registry.run_once("train", "k", b"d", lambda: registry.reset("train", epoch=epoch), epoch)
    registry.delete("train")


def test_a_maker_that_lost_its_name_keeps_nothing(make_registry, tmp_path):
    """What another has kept under it since stays."""
    store = PoolStore(tmp_path)
    registry = make_registry(store=store)
    first = registry._listing.reserve("train", 1)
    registry._listing.take("train")
    view = registry.create(COUNT, "train", durable=True)
    mine = Made(NoHost("train", "none"), COUNT, unmade(DurablePool("train", COUNT)), 0.0, 0.0, durable=True)
    with pytest.raises(PoolStopping, match="given up"):
        registry._upkeep._publish_kept(first, mine)
    assert [pool.name for pool in store.load()] == ["train"]
    assert registry.get("train").epoch == view.epoch
    registry.delete("train")


def test_pools_of_the_start_are_held_to_the_cap(make_registry):
    """Those beyond it are listed with the reason, and are not made; the server is ready all the same."""
    registry = make_registry(caps=Caps(max_pools=1))
    registry.restore([DurablePool("a", COUNT), DurablePool("b", COUNT)])
    wait_for(lambda: registry.get("a").state == "ready" and not registry.restoring)
    view = registry.get("b")
    assert (view.state, view.epoch) == ("lost", 0)
    assert "max_pools is 1" in view.reason
    for name in ("a", "b"):
        registry.delete(name)


# What pools may have together


def test_memory_of_all_pools_is_bounded(make_registry):
    """The pool that would be one too many is refused by the name of the cap; when another ends, there is room."""
    size = make_registry().create(COUNT).arena_bytes
    registry = make_registry(caps=Caps(max_total_arena_bytes=2 * size + size // 2))
    first, second = registry.create(COUNT), registry.create(COUNT)
    for _ in range(2):
        with pytest.raises(CapExceeded, match="max_total_arena_bytes") as caught:
            registry.create(COUNT)
        assert caught.value.details == {"cap": "max_total_arena_bytes", "limit": 2 * size + size // 2, "asked": size}
    registry.delete(first.pool)
    third = registry.create(COUNT)
    assert [view.pool for view in registry.list()] == [second.pool, third.pool]


def test_a_pool_without_a_host_has_no_memory(make_registry):
    """What a durable pool had before its host ended is free while it cannot be made again."""
    registry = make_registry()
    ready = HostReady(unmade(DurablePool("train", COUNT)).info, {}, 1, 99)
    registry._listing.put("train", Made(NoHost("train", "lost"), COUNT, ready, 0.0, 0.0))
    assert registry._listing._arena_bytes() == 0


def test_a_pool_that_ended_is_buried_though_it_cannot_be_forgotten(make_registry, monkeypatch, caplog):
    """Its process is ended, and why it comes back is logged; who asks for its address changes nothing."""
    registry, ended = make_registry(), []
    process = NoHost("train", "gone")
    process.exitcode, process.end = EXPIRED, ended.append
    ready = unmade(DurablePool("train", COUNT))
    registry._listing.put("train", Made(process, COUNT, ready, 0.0, 0.0, durable=True))

    def refuse(pool):
        raise StateUnavailable("the disk is full")

    monkeypatch.setattr(registry._keeper, "forget", refuse)
    for _ in range(2):
        with pytest.raises(PoolLost, match="silent for 60 s, and its lease_expiry is destroy"):
            registry.address("train")
        assert not ended
    assert registry.list() == []
    with pytest.raises(PoolLost, match="make it again"):
        registry.get("train")
    assert "ended with its driver's lease" in caplog.text
    assert len(ended) == 1
    assert "the disk is full" in caplog.text


def test_a_process_that_cannot_be_ended_leaves_the_others_no_trouble(make_registry, caplog):
    """All are ended; the one is logged."""
    registry, ended = make_registry(), []
    first, second = NoHost("first", "none"), NoHost("second", "none")
    first.end = lambda _: 1 / 0
    second.end = ended.append
    registry._maker.end([first, second], 0.0)
    assert len(ended) == 1
    assert not registry._maker._ending
    assert "could not be ended" in caplog.text


def test_a_pool_may_not_be_larger_than_its_own_cap(make_registry):
    """Whichever cap is met is named."""
    registry = make_registry(caps=Caps(max_arena_bytes=100, max_total_arena_bytes=1 << 40))
    with pytest.raises(CapExceeded, match="max_arena_bytes of this server") as caught:
        registry.create(COUNT)
    assert (caught.value.details["cap"], caught.value.details["limit"]) == ("max_arena_bytes", 100)


def test_a_name_is_free_when_its_pool_could_not_be_kept_to_the_end(make_registry, tmp_path, monkeypatch):
    """A pool whose server shuts down while it is made is neither listed nor kept."""
    store = PoolStore(tmp_path)
    registry = make_registry(store=store)
    kept = store.add
    monkeypatch.setattr(store, "add", lambda pool: (kept(pool), setattr(registry._listing, "closing", True)))
    with pytest.raises(PoolStopping):
        registry.create(COUNT, "train", durable=True)
    assert (registry.list(), store.load()) == ([], [])
