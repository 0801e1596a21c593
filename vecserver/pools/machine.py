"""What this machine, and the control group that this process is in, allow: memory and processor time."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["core_limit", "group_memory", "memory_limit", "process_limit"]

_GROUPS: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_UNLIMITED: Final = 1 << 60
"""Bytes: what the older kind of control group says where there is no limit is more than that."""


def memory_limit() -> int:
    """Bytes that processes can have on top of those in use, as far as it is known: the machine's, or the group's."""
    free = _available()
    found = group_memory()
    return free if found is None else min(free, max(0, found[0] - found[1]))


def group_memory() -> tuple[int, int] | None:
    """Limit and use, in bytes, of the control group that allows the least more; None where none has a limit."""
    found = []
    for group in _own_groups(""):
        limit, use = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None and use is not None:
            found.append((limit, use - _file_pages(group)))
    for group in _own_groups("memory"):
        limit, use = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
        if limit is not None and use is not None and limit < _UNLIMITED:
            found.append((limit, use - _file_pages(group)))
    return min(found, key=lambda each: each[0] - each[1], default=None)


def core_limit() -> float | None:
    """Cores whose time the control group may use; None where it has no limit."""
    found = []
    for group in _own_groups(""):
        quota, _, period = _text(group / "cpu.max").strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            found.append(int(quota) / int(period))
    for group in _own_groups("cpu"):
        quota_us, period_us = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if quota_us is not None and quota_us > 0 and period_us:
            found.append(quota_us / period_us)
    return min(found, default=None)


def process_limit() -> int | None:
    """Processes and threads that this user, or the control group, may have; None where nothing limits them."""
    found = [
        limit for folder in ("", "pids") for group in _own_groups(folder) if (limit := _number(group / "pids.max"))
    ]
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:  # root is not held to it
        found.append(hard)
    return min(found, default=None)


def _own_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it; "" is for the unified hierarchy."""
    for line in _text(_OWN).splitlines():
        _, controllers, name = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        root = _GROUPS / controllers if controllers else _GROUPS
        folder = root / name.lstrip("/")
        yield folder
        yield from (each for each in folder.parents if each.is_relative_to(root))


def _file_pages(group: Path) -> int:
    """Bytes of files that the group has in memory and could do without."""
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _available() -> int:
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
