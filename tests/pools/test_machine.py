"""What control groups of both kinds allow, read from trees like the kernel's."""

from __future__ import annotations

import pytest

from vecserver.pools import machine

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Says in which control groups the process is; their tree is in the test's folder."""

    def lay_out(own):
        own_file = tmp_path / "own"
        own_file.write_text(own)
        monkeypatch.setattr(machine, "_GROUPS", tmp_path)
        monkeypatch.setattr(machine, "_OWN", own_file)

    return lay_out


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_a_unified_group_and_those_above_it_count(groups, tmp_path):
    """The one that leaves the least is the one that matters; pages of files that can be had back are free."""
    groups("0::/a/b\n")
    write(tmp_path / "a" / "b", memory__max="max", memory__current=GIB, cpu__max="max 100000", pids__max=300)
    write(tmp_path / "a", memory__max=4 * GIB, memory__current=3 * GIB, cpu__max="150000 100000", pids__max=200)
    write(tmp_path / "a", memory__stat=f"anon 1\ninactive_file {GIB}")
    assert machine.group_memory() == (4 * GIB, 2 * GIB)
    assert machine.memory_limit() <= 2 * GIB
    assert machine.core_limit() == 1.5
    assert machine.process_limit() <= 200


def test_groups_of_the_older_kind_count(groups, tmp_path):
    """Each controller has a tree of its own; -1 and the largest number mean no limit."""
    groups("4:memory:/x\n3:cpu,cpuacct:/x\n2:pids:/gone\n1:name=systemd:/\n0::/\n")
    write(tmp_path / "memory" / "x", memory__limit_in_bytes=2 * GIB, memory__usage_in_bytes=GIB)
    write(tmp_path / "memory", memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=GIB)
    write(tmp_path / "cpu,cpuacct" / "x", cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)
    write(tmp_path / "cpu,cpuacct", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    write(tmp_path / "pids", pids__max=77)
    assert machine.group_memory() == (2 * GIB, GIB)
    assert machine.core_limit() == 0.5
    assert machine.process_limit() <= 77


def test_no_limit_is_none(groups):
    """A machine without control groups has its own memory."""
    groups("")
    assert (machine.group_memory(), machine.core_limit()) == (None, None)
    assert machine.memory_limit() > 0
