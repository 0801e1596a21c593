"""Where code could come out of data: each place is named here with the reason, and a new one fails."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("vecserver", "clients/vecserver_client")

MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml", "multiprocessing", "copyreg"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"recv_pyobj", "send_pyobj", "exec_module", "import_module", "allow_pickle"}

ALLOWED = {
    # between a program and the workers that it starts itself; a server's host never sends a program, and a worker that
    # was started without one loads no pickle
    ("vecserver/engine/pickled.py", "cloudpickle"),
    # TimeoutError's class alone, which Gymnasium's callers catch
    ("vecserver/wire/errors.py", "multiprocessing"),
    # its exit handler, in a process that was forked: nothing is sent over it
    ("vecserver/engine/forked.py", "multiprocessing"),
    # modules of this package's and Gymnasium's whose names stand in the same file
    ("vecserver/registration.py", "exec_module"),
    ("vecserver/pools/sessions/nursery.py", "import_module"),
    # files of this package's that are programs: the demonstration, and the peers of the benchmark
    ("vecserver/cli/demo.py", "exec_module"),
    ("vecserver/cli/measure/peer_process.py", "exec_module"),
}
"""File and what it uses."""


def _found() -> set[tuple[str, str]]:
    return {
        (str(path.relative_to(ROOT)), name)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in _in(ast.parse(path.read_text()))
    }


def _in(tree: ast.AST):
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names if alias.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield module.partition(".")[0]
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield name
            case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                yield name
            case ast.Call(keywords=keywords) if any(word.arg == "allow_pickle" for word in keywords):
                yield "allow_pickle"


def test_nothing_of_another_process_is_run():
    """No pickle, marshal, eval or import by name beyond the places that say why."""
    assert _found() == ALLOWED


def test_a_pickle_would_be_found():
    """The search knows each way to load one."""
    source = (
        "import pickle, a.b\nfrom multiprocessing.connection import Client\nsock.recv_pyobj()\neval('1')\n"
        "np.load(f, allow_pickle=True)\nimport yaml.loader\n"
    )
    assert set(_in(ast.parse(source))) == {"pickle", "multiprocessing", "recv_pyobj", "eval", "allow_pickle", "yaml"}
