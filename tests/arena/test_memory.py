"""The memory of an arena: one size for good, seen by all who hold its descriptor, and by nobody else."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.arena.arenas import Arena
from vecserver.arena.memory import create, map_memory, size_and_seal
from vecserver.arena.views import ArenaViews


@pytest.fixture
def memory():
    fd = create("vecserver-test")
    yield fd
    os.close(fd)


@pytest.fixture
def arena():
    with closing(Arena.small()) as arena:
        yield arena


@pytest.mark.parametrize("size", [0, mmap.PAGESIZE, 3 * mmap.PAGESIZE])
def test_the_size_is_for_good(memory, size):
    """Once sized, a memory can neither shrink under a reader's feet nor grow."""
    size_and_seal(memory, 2 * mmap.PAGESIZE)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, size)
    assert os.fstat(memory).st_size == 2 * mmap.PAGESIZE


def test_the_seals_are_for_good(memory):
    """Nobody can seal the memory against writing, which would stop the workers."""
    size_and_seal(memory, mmap.PAGESIZE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_it_has_no_name_in_any_file_system(memory):
    """Nothing is left behind whatever dies: the memory is a deleted file from the beginning."""
    assert str(Path(f"/proc/self/fd/{memory}").readlink()) == "/memfd:vecserver-test (deleted)"
    assert not [*Path("/dev/shm").glob("*vecserver-test*")]


def test_two_mappings_are_one_memory(memory):
    """What is written through one mapping is read through another, in another process too."""
    size_and_seal(memory, mmap.PAGESIZE)
    with map_memory(memory, mmap.PAGESIZE) as first, map_memory(memory, mmap.PAGESIZE) as second:
        first[10:15] = b"hello"
        assert second[10:15] == b"hello"
        code = (
            "import sys; from vecserver.arena.memory import map_memory\n"
            f"m = map_memory({memory}, {mmap.PAGESIZE}); assert m[10:15] == b'hello'; m[10:15] = b'there'"
        )
        subprocess.run([sys.executable, "-c", code], check=True, pass_fds=(memory,))
        assert second[10:15] == b"there"


def test_a_child_inherits_it_only_when_told_to(memory):
    """A descriptor that is not passed on is closed in a child."""
    code = "import os, sys; print(*os.listdir('/proc/self/fd'))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, close_fds=False)
    assert str(memory) not in output.stdout.split()


def test_untouched_pages_cost_nothing(memory):
    """An arena with large side areas takes only the pages that somebody wrote."""
    size_and_seal(memory, 1 << 28)
    with map_memory(memory, 1 << 28) as mapped:
        mapped[1 << 20] = 1
        assert os.fstat(memory).st_blocks * 512 <= 1 << 21


def test_an_arena_knows_itself(arena):
    """Whoever maps the memory of an arena with the plan it was made from is let through."""
    ArenaViews(arena.plan, arena.layout, arena.memory).verify(arena.layout.hash)


def test_another_layout_is_refused(arena):
    """A process that planned from another layout would read every array in the wrong place."""
    with pytest.raises(ValueError, match="not the arena"):
        arena.views.verify(arena.layout.hash ^ 1)


def test_memory_that_is_no_arena_is_refused(arena):
    """Memory that nobody stamped is not taken for an arena."""
    arena.views.head[0] = 0
    with pytest.raises(ValueError, match="not the arena"):
        arena.views.verify(arena.layout.hash)


def test_page_0_says_what_the_arena_holds(arena):
    """Layout, workers and slots stand in page 0, for those who only look."""
    assert list(arena.views.head[2:6]) == [arena.layout.hash, 2, arena.plan.slot_count, 0]
    assert Path(f"/proc/self/fd/{arena.fd}").stat().st_size == arena.plan.size
