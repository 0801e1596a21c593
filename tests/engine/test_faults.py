"""What an environment raised, as data: whatever it is."""

from __future__ import annotations

import pickle

import pytest

from vecserver.engine.base import RowFaults, fault_of
from vecserver.wire.codec import pack, unpack


class MuteError(Exception):
    """Raises when its text is asked for."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_fault_says_where_and_what():
    """Row, type, message and traceback, all of them plain."""
    fault = fault_of(7, raised(ValueError("out of range")))
    assert (fault["row"], fault["type"], fault["message"]) == (7, "ValueError", "out of range")
    assert "in raised" in fault["traceback"]
    assert fault["traceback"].endswith("ValueError: out of range\n")


def test_the_cause_of_an_error_is_in_its_traceback():
    """Chained errors are told with what they came from."""
    error = RuntimeError("second")
    error.__cause__ = raised(KeyError("first"))
    assert "KeyError: 'first'" in fault_of(0, raised(error))["traceback"]


@pytest.mark.parametrize(
    "error",
    [
        MuteError(),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        ValueError("\ud800"),
        ExceptionGroup("g", [OSError()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_fault_travels(error):
    """No exception is so odd that its description cannot be sent."""
    fault = fault_of(0, raised(error))
    assert unpack(pack(fault)) == fault
    assert fault["type"] == type(error).__name__


def test_an_error_without_a_text_is_described():
    """An error that raises when it is printed does not hide what happened."""
    fault = fault_of(0, raised(MuteError()))
    assert "RuntimeError" in fault["message"]
    assert "MuteError" in fault["traceback"]


def test_a_long_text_is_cut_in_its_middle():
    """Both ends of a text stay, and it fits into a reply."""
    fault = fault_of(0, raised(ValueError("begin" + "x" * 1_000_000 + "end")))
    for text in (fault["message"], fault["traceback"]):
        assert len(text) < 20_000
        assert "\n…\n" in text
    assert fault["message"].startswith("begin")
    assert fault["message"].endswith("end")


def test_faults_of_rows_travel_between_processes():
    """The exception that carries them can be pickled, as a pool of processes may want."""
    faults = [fault_of(1, raised(ValueError("a"))), fault_of(2, raised(OSError("b")))]
    assert pickle.loads(pickle.dumps(RowFaults(faults))).faults == faults
