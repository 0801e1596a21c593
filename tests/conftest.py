"""What every test runs under: the paths of child processes, a runtime directory of the run's own, the check for leaks."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
import uuid
import warnings
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.contract.compare", "tests.contract.vector_contract")

from tests import leaks  # noqa: E402  (after the modules whose assertions are to be explained)

ROOT = Path(__file__).resolve().parent.parent
FAILED_GRACE_S = 0.5


def pytest_configure(config: pytest.Config) -> None:
    """Sets what children inherit. The runtime directory's path is short, as AF_UNIX addresses end at 108 bytes."""
    paths = [str(ROOT), str(ROOT / "clients"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ[leaks.MARKER] = uuid.uuid4().hex
    os.environ[leaks.RUNTIME_DIR] = tempfile.mkdtemp(prefix="vs-", dir="/tmp")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of children would compile the same modules anew
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    # Box2D warns while it is imported, and takes the interpreter down where warnings are errors.
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        importlib.import_module("Box2D")
    # libuv keeps a pipe for signals as long as the process lives: there before anything is counted
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop").new_event_loop().close()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the runtime directory."""
    shutil.rmtree(os.environ.pop(leaks.RUNTIME_DIR), ignore_errors=True)


def _fail_on_leaks(before: leaks.Snapshot, by: str, grace: float | None = None) -> None:
    found = leaks.left_over(before, grace)
    leaks.end_processes(found)
    if texts := found.texts():
        pytest.fail(f"left behind by {by}:\n  " + "\n  ".join(texts), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_at_the_end():
    """Fails the run when a fixture of a higher scope left something behind."""
    before = leaks.Snapshot.take()
    yield
    _fail_on_leaks(before, "the whole run")


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest):
    """Fails a test that left something behind; see ``tests.leaks`` for what may stay."""
    before = leaks.Snapshot.take()
    failed = request.session.testsfailed
    yield
    # The traceback of a test that failed keeps its objects alive, so that waiting for them is in vain.
    has_failed = request.session.testsfailed > failed
    _fail_on_leaks(before, "this test", FAILED_GRACE_S if has_failed else None)
