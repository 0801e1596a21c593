"""Which arguments of environments a server does not take from its callers unless its operator allows them.

Denied is what names a file, a module or a device of the server, and what opens a window there. The rules go by the
argument's name, by the environment where a name alone says too little, and by what a text looks like.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DENIED_BY_ENVIRONMENT", "DENIED_NAMES", "denied_arguments"]

DENIED_NAMES: Final = (
    *("file", "*_file", "file_*", "files", "*_files", "filename", "*_filename"),
    *("path", "*_path", "path_*", "paths", "*_paths", "dir", "*_dir", "*_dirs", "directory", "*_directory"),
    *("folder", "*_folder", "root", "*_root", "url", "*_url", "uri", "*_uri", "host", "*_host"),
    *("rom", "roms", "*_rom", "rom_*", "xml", "*_xml", "xml_*", "urdf", "mjcf", "*_mjcf", "*_urdf"),
    *("module", "*_module", "entry_point", "*_entry_point", "class", "*_class", "*_cls"),
    *("callable", "*_callback", "*_fn", "command", "executable", "*_executable", "display", "device"),
)
"""Globs of arguments' names, in any environment and at any depth. Upper and lower case are the same."""

DENIED_BY_ENVIRONMENT: Final = {
    "GymV2?Environment-v*": ("*",),
    "EnvPool/*": ("task_id", "base_path"),
}
"""Globs of ids, and the names that are denied there besides."""

_WINDOWS: Final = frozenset({"human", "human_vr"})
"""Render modes that open a window on the server's screen."""

_LOOKS_LIKE_A_FILE: Final = re.compile(r"[/\\\0]|^~|^\.{1,2}$|\.\.|\.[A-Za-z][A-Za-z0-9]{0,7}$|^[\w.]+:[\w.]+$")
"""A separator, a home, a way up, a suffix, or ``module:attribute``."""


def denied_arguments(env_id: str, arguments: Any) -> Iterator[tuple[str, str]]:
    """The arguments that a caller may not give by itself.

    Args:
        env_id: Of the environment, without a module.
        arguments: A JSON value.

    Yields:
        The name that the operator would have to allow, and why it is denied.
    """
    by_environment = [
        name for glob, names in DENIED_BY_ENVIRONMENT.items() if fnmatchcase(env_id, glob) for name in names
    ]
    pending: list[tuple[str, Any]] = [("", arguments)]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if why := _why_not_name(str(key), by_environment):
                    yield str(key), why
                pending.append((name or str(key), inner))
                if _LOOKS_LIKE_A_FILE.search(str(key)):
                    yield name or str(key), f"the key {key!r:.80} in it looks like a file or a module"
        elif isinstance(value, list | tuple):
            pending += [(name, inner) for inner in value]
        elif isinstance(value, str) and (why := _why_not_text(name, value)):
            yield name, why


def _why_not_name(name: str, by_environment: list[str]) -> str:
    lowered = name.lower()
    if any(fnmatchcase(lowered, glob) for glob in DENIED_NAMES):
        return "such a name stands for a file, a module or a device of the server"
    if any(fnmatchcase(lowered, glob) for glob in by_environment):
        return "this environment reads a file, a module or another environment by it"
    return ""


def _why_not_text(name: str, value: str) -> str:
    if name == "render_mode" and value in _WINDOWS:
        return f"{value!r} opens a window on the server's screen"
    if _LOOKS_LIKE_A_FILE.search(value):
        return f"{value!r:.80} looks like a file or a module"
    return ""
