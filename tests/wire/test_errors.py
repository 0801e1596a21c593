"""The tree of errors: complete, drawn, numbered, and the same class at both ends."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import re

import pytest

from vecserver.wire import errors, messages
from vecserver.wire.errors import ERRORS, EnvCreationFailed, EnvFault, RemoteError, VecServerError, from_code

CLASSES = list(ERRORS.values())
FAULTS = [{"row": 3, "type": "ZeroDivisionError", "message": "division by zero", "traceback": "Traceback …"}]

NUMBERS = {
    "error": 1,
    "local_error": 2,
    "remote_error": 3,
    "invalid_action": 10,
    "invalid_spec": 11,
    "unsupported_space": 12,
    "transport_unavailable": 13,
    "unportable_value": 14,
    "env_fault": 20,
    "env_creation_failed": 21,
    "unknown_env": 22,
    "cap_exceeded": 23,
    "unknown_pool": 24,
    "unknown_route": 25,
    "method_refused": 26,
    "pool_broken": 30,
    "pool_lost": 31,
    "pool_stopping": 32,
    "worker_died": 33,
    "pool_split": 34,
    "reset_needed": 35,
    "session_lost": 36,
    "lease_held": 40,
    "lease_lost": 41,
    "sequence_stale": 42,
    "sequence_gap": 43,
    "sequence_conflict": 44,
    "epoch_mismatch": 45,
    "still_running": 46,
    "port_unavailable": 50,
    "host_start_failed": 51,
    "state_unavailable": 52,
    "not_ready": 53,
    "internal_error": 59,
    "protocol_error": 60,
    "malformed_message": 61,
    "message_too_large": 62,
    "version_mismatch": 63,
    "deadline_exceeded": 70,
    "server_unreachable": 71,
    "unauthorized": 80,
}

classes = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def _defined() -> dict[str, type]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, VecServerError)
    }


def test_the_table_holds_every_class():
    """No two share a code, a number or a name, and nothing that is public is missing."""
    assert set(CLASSES) == set(_defined().values())
    assert len({cls.number for cls in CLASSES}) == len(CLASSES)
    assert set(errors.__all__) == {cls.__name__ for cls in CLASSES} | {"ERRORS", "from_code"}


def test_codes_and_numbers_do_not_change():
    """They are the protocol; a new error gets a new line here."""
    assert {code: cls.number for code, cls in ERRORS.items()} == NUMBERS


@classes
def test_every_class_has_its_own_number_code_and_status(cls):
    """None inherits them by oversight; a status is one that HTTP has for errors."""
    assert {"code", "number", "http_status"} <= vars(cls).keys()
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.code)
    assert 0 < cls.number < 2**16
    assert 400 <= cls.http_status < 600
    assert inspect.getdoc(cls)


def test_the_tree_is_drawn_as_it_is():
    """The module's docstring shows every class, under its own base."""
    drawn: dict[str, str] = {}
    bases: list[tuple[int, str]] = []
    for line in inspect.getdoc(errors).splitlines():
        match = re.match(r"^(?P<indent>[ │├└─]*)(?P<names>[A-Z]\w+(, [A-Z]\w+)*)", line)
        if match and all(name in _defined() for name in match["names"].split(", ")):
            depth = len(match["indent"].expandtabs())
            bases = [base for base in bases if base[0] < depth]
            for name in match["names"].split(", "):
                drawn[name] = bases[-1][1] if bases else ""
            bases.append((depth, match["names"]))
    assert drawn == {
        name: "" if cls is VecServerError else cls.__bases__[0].__name__ for name, cls in _defined().items()
    }


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidAction, ValueError),
        (errors.InvalidSpec, ValueError),
        (errors.UnsupportedSpace, TypeError),
        (errors.Unportable, TypeError),
        (errors.DeadlineExceeded, TimeoutError),
        (errors.ServerUnreachable, TimeoutError),
        (errors.DeadlineExceeded, multiprocessing.TimeoutError),
    ],
)
def test_errors_that_python_has_are_those_too(cls, builtin):
    """Code that catches the builtin catches them."""
    assert issubclass(cls, builtin)


@classes
def test_an_error_pickles_and_copies(cls):
    """With message and details, as it must between processes."""
    error = cls("what happened", row=3, message="theirs", self="mine", rows=[1, 2])
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert (again.message, again.details) == (error.message, error.details)
        assert str(again) == "what happened"


@classes
def test_an_error_crosses_the_wire(cls):
    """The other end raises the same class with the same text and details."""
    error = cls("what happened", rows=[24, 32], exitcode=-9, message="theirs", nested={"a": None})
    again = messages.decode_error(messages.encode_error(error))
    assert type(again) is cls
    assert (again.message, again.details) == (error.message, error.details)
    assert type(from_code(cls.code, "x", {})) is cls


def test_an_unknown_code_is_the_peers_error():
    """A newer server's error is still an error with its text."""
    error = from_code("not_invented_yet", "the text", {"code": 1})
    assert type(error) is RemoteError
    assert (error.message, error.details) == ("the text", {"code": 1})


@pytest.mark.parametrize("cls", [EnvFault, EnvCreationFailed])
def test_a_fault_tells_the_first_row_that_raised(cls):
    """Row, type and traceback of the first; all of them in a list of the caller's own."""
    error = cls("row 3 raised", faults=FAULTS)
    assert (error.row, error.type, error.traceback) == (3, "ZeroDivisionError", "Traceback …")
    error.faults.clear()
    assert error.faults == FAULTS


def test_a_fault_without_rows_is_still_an_error():
    """Reading what is not there does not raise another error."""
    error = EnvFault("it raised")
    assert (error.row, error.type, error.traceback, error.faults) == (-1, "", "", [])
