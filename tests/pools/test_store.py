"""The file of durable pools: what it keeps, and what its troubles are called."""

from __future__ import annotations

import resource
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from vecserver.pools.spec import PoolSpec
from vecserver.pools.store import FILE, DurablePool, PoolStore
from vecserver.wire.errors import StateUnavailable

SPEC = PoolSpec(env_id="CartPole-v1", num_envs=3, env_kwargs={"a": [1, {"b": None}]}, wrappers=["X", {"id": "Y"}])
TRAIN, OTHER = DurablePool("train", SPEC), DurablePool("other", PoolSpec(env_id="Acrobot-v1", num_envs=1))


@contextmanager
def opened(directory):
    with closing(PoolStore(directory)) as store:
        yield store


def test_pools_are_there_after_a_restart(tmp_path):
    """What was added and not removed is loaded in its order, with every option; the file is its user's alone."""
    with opened(tmp_path / "state") as store:
        assert store.load() == []
        assert not (tmp_path / "state").exists()
        for pool in (OTHER, TRAIN, DurablePool("gone", SPEC)):
            store.add(pool)
        store.remove("gone")
        store.remove("never there")
    with opened(tmp_path / "state") as store:
        assert store.load() == [OTHER, TRAIN]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600


def test_what_a_server_wrote_that_was_killed_is_whole(tmp_path):
    """A file whose writer did not close it has every change whose call returned."""
    with opened(tmp_path) as store:
        store.add(TRAIN)
        image = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, data in image.items():
        (tmp_path / name).write_bytes(data)
    with opened(tmp_path) as store:
        assert store.load() == [TRAIN]


def test_one_server_has_the_file(tmp_path):
    """A second server is told so, neither reads nor writes, and leaves the first alone."""
    with opened(tmp_path) as first, opened(tmp_path) as second:
        first.add(TRAIN)
        with pytest.raises(StateUnavailable, match="another server has it"):
            second.load()
        with pytest.raises(StateUnavailable, match="another server has it"):
            second.add(OTHER)
        first.add(OTHER)
        assert first.load() == [TRAIN, OTHER]


@pytest.mark.parametrize("damage", [b"this is no database" * 300, None])
def test_a_damaged_file_is_named_and_not_touched(tmp_path, damage):
    """It is neither read in part nor written over: somebody may want to repair it."""
    path = tmp_path / FILE
    with opened(tmp_path) as store:
        store.add(TRAIN)
    if damage is None:  # the page of the table alone
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * len(data[4096:])
        damage = bytes(data)
    path.write_bytes(damage)
    with opened(tmp_path) as store:
        for call in (store.load, lambda: store.add(OTHER), lambda: store.remove("train")):
            with pytest.raises(StateUnavailable, match="is damaged") as caught:
                call()
            assert caught.value.details == {"path": str(path)}
    assert path.read_bytes() == damage


def test_a_file_of_a_later_release_is_not_read(tmp_path):
    """Its version is named; nothing is lost by going back to the later release."""
    with opened(tmp_path) as store:
        store.add(TRAIN)
        store._database.execute("PRAGMA user_version = 9")
    with opened(tmp_path) as store, pytest.raises(StateUnavailable, match="newer release"):
        store.load()


def test_a_row_that_is_no_pool_is_named(tmp_path):
    """Options that this release cannot read are no reason to end."""
    with opened(tmp_path) as store:
        store.add(TRAIN)
        store._database.execute("UPDATE pools SET spec = '{}'")
    with opened(tmp_path) as store, pytest.raises(StateUnavailable, match="env_id"):
        store.load()


@contextmanager
def disk_of(size):
    """The kernel refuses to make files longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_got_over(tmp_path):
    """A change that could not be written did not happen; when there is room again, the next one does."""
    with opened(tmp_path) as store:
        store.add(TRAIN)
        with disk_of((tmp_path / f"{FILE}-wal").stat().st_size):
            for call in (lambda: store.add(OTHER), lambda: store.remove("train")):
                with pytest.raises(StateUnavailable, match="make room"):
                    call()
            assert store.load() == [TRAIN]
        store.add(OTHER)
        assert store.load() == [TRAIN, OTHER]


def test_a_directory_that_cannot_be_looked_into_is_told(tmp_path, monkeypatch):
    """It is another user's, say."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with opened(tmp_path) as store:
        monkeypatch.setattr(Path, "exists", refuse)
        with pytest.raises(StateUnavailable, match="Permission denied"):
            store.load()


def test_a_directory_that_cannot_be_made_is_told(tmp_path):
    """A file where the directory should be, say."""
    (tmp_path / "file").touch()
    with opened(tmp_path / "file" / "state") as store, pytest.raises(StateUnavailable, match="--state-dir"):
        store.add(TRAIN)
