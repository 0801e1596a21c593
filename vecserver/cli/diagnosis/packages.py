"""Which releases are installed, and which extras."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from importlib.util import find_spec
from typing import Final

from vecserver import __version__
from vecserver.cli.diagnosis.finding import Finding, fail, ok

__all__ = ["check_extras", "check_versions"]

_NEEDED: Final = re.compile(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)")
_EXTRAS: Final = {
    "atari": "ale_py",
    "box2d": "Box2D",
    "mujoco": "mujoco",
    "toy-text": "pygame",
    "web": "nicegui",
    "sb3": "stable_baselines3",
    "plot": "matplotlib",
}


def check_versions() -> list[Finding]:
    """Whether every package that the server needs is there, and new enough."""
    name = "packages"
    try:
        needed = [text for text in metadata.requires("vecserver") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        return [ok(name, f"vecserver {__version__} of a source tree, Python {platform.python_version()}")]
    wrong = [finding for text in needed if (finding := _check_package(text)) is not None]
    gymnasium = metadata.version("gymnasium")
    return wrong or [
        ok(name, f"vecserver {__version__}, Python {platform.python_version()}, gymnasium {gymnasium}: all new enough")
    ]


def _check_package(requirement: str) -> Finding | None:
    match = _NEEDED.match(requirement)
    if match is None:
        return None
    package, least = match.groups()
    advice = f"pip install '{package}>={least}'"
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return fail(f"package {package}", "it is not installed", advice)
    if _numbers(version) < _numbers(least):
        return fail(f"package {package}", f"{version} is installed, {least} or newer is needed", advice)
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[a-z+-]", version)[0]))


def check_extras() -> Finding:
    """Which groups of environments and tools are at hand."""
    there = [extra for extra, module in _EXTRAS.items() if find_spec(module) is not None]
    missing = [extra for extra in _EXTRAS if extra not in there]
    found = f"installed: {', '.join(there) or 'none'}"
    return ok("extras", f"{found}; not installed: {', '.join(missing)}" if missing else found)
