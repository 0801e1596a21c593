"""Runs Gymnasium's own tests of vector environments with ``LocalVectorEnv`` in the place of Gymnasium's.

::

    python tests/gymnasium_suite.py CHECKOUT --instead-of async
    python tests/gymnasium_suite.py CHECKOUT --instead-of sync --any-wording -- -k autoreset

``CHECKOUT`` is a folder with Gymnasium's ``tests`` in it, of the version that is installed. What is behind ``--`` goes to
pytest. ``--any-wording`` takes errors and warnings of the right type whatever their message says, which tells differences
of behaviour from those of language. The result, and why what fails does, stands in ``docs/gymnasium.md``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SUITE = ("tests/vector", "tests/wrappers/vector")
PLACES = {
    "async": ("AsyncVectorEnv", "gymnasium.vector.async_vector_env"),
    "sync": ("SyncVectorEnv", "gymnasium.vector.sync_vector_env"),
}


class InThePlaceOf:
    """A pytest plugin that exchanges the class before any test is collected.

    Args:
        name: ``async`` or ``sync``; ``nothing`` leaves Gymnasium as it is.
        any_wording: Whether expected messages are left out of account.
    """

    def __init__(self, name: str, *, any_wording: bool) -> None:
        self._place = PLACES.get(name)
        self._any_wording = any_wording

    def pytest_configure(self, config: pytest.Config) -> None:
        """Puts ``LocalVectorEnv`` where Gymnasium's class is looked up."""
        import gymnasium.vector

        from vecserver_client import LocalVectorEnv

        if self._place is not None:
            name, module = self._place
            for place in (gymnasium.vector, sys.modules[module]):
                setattr(place, name, LocalVectorEnv)
        if self._any_wording:
            raises, warns = pytest.raises, pytest.warns
            pytest.raises = lambda *args, match=None, **kwargs: raises(*args, **kwargs)
            pytest.warns = lambda *args, match=None, **kwargs: warns(*args, **kwargs)


def main() -> int:
    """Runs the suite; returns pytest's exit status."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--instead-of", choices=[*PLACES, "nothing"], default="async")
    parser.add_argument("--any-wording", action="store_true")
    options = parser.parse_args(arguments[:split])
    os.chdir(options.checkout)
    # their package `tests`, not this one; workers take the path over
    sys.path = [str(options.checkout.resolve()), *(path for path in sys.path if Path(path).resolve() != HERE)]
    sys.path += [str(HERE.parent), str(HERE.parent / "clients")]
    plugin = InThePlaceOf(options.instead_of, any_wording=options.any_wording)
    own = ["-p", "no:cacheprovider", "-q", "--rootdir", ".", "-c", os.devnull]
    return pytest.main([*own, *SUITE, *arguments[split + 1 :]], plugins=[plugin])


if __name__ == "__main__":
    sys.exit(main())
