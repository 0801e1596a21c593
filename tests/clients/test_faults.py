"""A fault is an EnvFault and what the environment raised, at once."""

from __future__ import annotations

import pickle

import gymnasium.error
import pytest

from vecserver.wire.errors import EnvCreationFailed, EnvFault
from vecserver_client.faults import as_original


def fault(name: str, kind=EnvFault) -> EnvFault:
    return kind("row 3 raised it", faults=[{"row": 3, "type": name, "message": "it", "traceback": "…"}])


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("ValueError", ValueError),
        ("KeyError", KeyError),
        ("ResetNeeded", gymnasium.error.ResetNeeded),
        ("OSError", OSError),
    ],
)
def test_known_types_are_caught_as_themselves(name, original):
    """Python's and Gymnasium's own exceptions keep their type."""
    same = as_original(fault(name))
    assert isinstance(same, original)
    assert isinstance(same, EnvFault)
    assert (same.row, same.type, same.traceback) == (3, name, "…")
    assert same.code == "env_fault"
    assert "row 3 raised it" in str(same)


@pytest.mark.parametrize(
    "name", ["SystemExit", "KeyboardInterrupt", "BaseException", "NoSuchError", "print", "", "UnicodeDecodeError"]
)
def test_other_types_stay_a_fault(name):
    """A name that is no plain exception changes nothing."""
    given = fault(name)
    assert as_original(given) is given or isinstance(as_original(given), EnvFault)
    assert not isinstance(as_original(given), (SystemExit, KeyboardInterrupt))


def test_the_combined_fault_pickles():
    """It survives a process boundary."""
    same = pickle.loads(pickle.dumps(as_original(fault("ValueError", EnvCreationFailed))))
    assert isinstance(same, ValueError)
    assert isinstance(same, EnvCreationFailed)
    assert same.row == 3
