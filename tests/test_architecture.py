"""The shape of the code: who imports whom, what a module shows, what is not to be used anywhere."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"vecserver": ROOT / "vecserver", "vecserver_client": ROOT / "clients" / "vecserver_client"}
VAGUE_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "core",
    "base_utils",
    "manager",
    "managers",
    "misc",
    "tools",
}
PICKLES = {"vecserver.engine.pickled"}
"""The module by which a program and workers of its own hand each other callables, and the server nothing."""
PICKLERS = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_settings"}
HEAVY = {"torch", "ray", "jax", "tensorflow", "stable_baselines3", "tensordict", "torchrl"}
SHOWS_DATES = {"vecserver.pools.upkeep"}
"""Modules that keep a moment for people to read; all others measure durations, with a clock that never jumps."""


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {
    module_name(package, path): path for package, root in PACKAGES.items() for path in sorted(root.rglob("*.py"))
}
NEEDS_AN_EXTRA = {"vecserver_client.sb3"}
"""Modules that cannot be imported here; tests of their own import them where they can."""
IMPORTABLE = [name for name in MODULES if not name.endswith("__main__")]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def exported_by(module: str) -> tuple[str, ...] | None:
    """The names in a module's ``__all__``; None where it has none."""
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    return None


def imports_of(module: str) -> Iterator[tuple[str, str]]:
    """Module and name of every import in a module, those inside functions too; the name is empty for a module."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def names_in(module: str) -> frozenset[str]:
    """Every dotted name that a module reads."""
    return frozenset(ast.unparse(node) for node in ast.walk(tree_of(module)) if isinstance(node, ast.Attribute))


def loaded_by(statement: str, *options: str) -> set[str]:
    """The top-level names of the modules that a statement loads into a fresh interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, *options, "-c", code], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in result.stdout.split()}


# Who imports whom


def test_imports_point_down():
    """The layers and bans that pyproject.toml names hold, and name every module."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_package_weighs_nothing():
    """``import vecserver`` loads no other module at all."""
    without_pth_files = "-S"  # an installation's own has loaded it already
    assert loaded_by("import vecserver", without_pth_files) == {"vecserver"}


def test_a_client_is_light():
    """A trainer that imports the client loads no web framework, and no learning library it did not ask for."""
    loaded = loaded_by("import vecserver_client")
    assert loaded >= {"vecserver_client"}
    assert not loaded & (WEB | HEAVY)


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("vecserver.engine.worker", WEB | HEAVY | {"zmq", "httpx", "asyncio"}),
        ("vecserver.dataplane.__main__", WEB | HEAVY),
    ],
)
def test_the_processes_of_a_pool_are_light(module, banned):
    """What is started once a pool or once a core loads only what it needs."""
    assert not loaded_by(f"import {module}") & banned


# What a module shows


def test_every_module_says_what_it_is_for():
    """Its docstring begins with a sentence."""
    first = {module: (ast.get_docstring(tree_of(module)) or "").partition("\n\n")[0] for module in MODULES}
    assert [module for module, text in first.items() if not text.rstrip().endswith((".", ":"))] == []


def test_modules_are_named_by_what_they_do():
    """There is no drawer for the rest."""
    assert [module for module in MODULES if VAGUE_NAMES & {part.strip("_") for part in module.split(".")}] == []


def test_modules_say_what_they_export():
    """Whoever defines a function or a class has an ``__all__``."""
    silent = [module for module in IMPORTABLE if exported_by(module) is None]
    defines = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    assert [module for module in silent if any(isinstance(node, defines) for node in tree_of(module).body)] == []


def test_exports_are_sorted():
    """Constants come first, then classes, then functions, each in order and once."""
    exports = {module: exported_by(module) or () for module in IMPORTABLE}
    assert [module for module, names in exports.items() if [*names] != sorted(set(names), key=rank)] == []


def rank(name: str) -> tuple[bool, bool, str]:
    return not name.isupper(), not name[0].isupper(), name


def test_exports_exist():
    """Each name in an ``__all__`` can be had, those that are loaded when they are needed too."""
    loaded = {module: importlib.import_module(module) for module in IMPORTABLE if module not in NEEDS_AN_EXTRA}
    assert [
        f"{module}.{name}"
        for module in loaded
        for name in exported_by(module) or ()
        if not hasattr(loaded[module], name)
    ] == []


def test_only_what_is_exported_is_imported():
    """A name that another module needs stands in the ``__all__`` of its own."""
    assert [
        f"{module} imports {name} from {source}"
        for module in MODULES
        for source, name in imports_of(module)
        if source in MODULES and f"{source}.{name}" not in MODULES and name not in ("", "__version__")
        if name not in (exported_by(source) or ())
    ] == []


# What is not to be used


def test_nothing_is_pickled():
    """Bytes of another process are never turned into objects by a loader that runs code, but for a program's own."""
    assert {
        module for module in MODULES for name, _ in imports_of(module) if name.partition(".")[0] in PICKLERS
    } == PICKLES
    assert [module for module, path in MODULES.items() if "allow_pickle" in path.read_text(encoding="utf-8")] == []


def test_durations_come_from_a_clock_that_does_not_jump():
    """The time of day is for people: it may be set back while something is waited for."""
    clocks = {"time.time", "time.time_ns"}
    assert {module for module in MODULES if clocks & names_in(module)} == SHOWS_DATES
    assert [module for module in MODULES if {("time", "time"), ("time", "time_ns")} & set(imports_of(module))] == []


def test_every_process_makes_its_own_zeromq_context():
    """A context that is shared with others in a process cannot be ended in order."""
    assert [module for module in MODULES if {"zmq.Context.instance", "Context.instance"} & names_in(module)] == []


def test_nothing_sleeps():
    """Waiting is for something: a descriptor, a bell, an event. Time passes for itself between two tries to connect, and
    where the benchmark waits until a batch is due or a peer has come to rest."""
    asleep = {
        module for module in MODULES if "time.sleep" in names_in(module) or ("time", "sleep") in imports_of(module)
    }
    assert asleep == {
        "vecserver.cli.measure.adapters",
        "vecserver.cli.measure.loops",
        "vecserver.cli.measure.peer_process",
        "vecserver_client.connection",
        "vecserver_client.direct",
        "vecserver_client.ws",
    }
