"""What hosts and environments write: passed on, bounded, and its end at hand."""

from __future__ import annotations

import json
import logging

import pytest

from vecserver.pools import hostlog
from vecserver.pools.hostlog import OUTPUT, HostLog

EVENT = {
    "time": "2026-01-01T00:00:00.000Z",
    "level": "warning",
    "logger": "vecserver.engine.envs",
    "pid": 7,
    "message": "row 3 is odd",
    "pool": "someone's",
    "traceback": "Traceback\nValueError: odd",
}


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "0.log"
    path.touch()
    return HostLog(path, "train")


def write(log, text):
    with log.path.open("a") as file:
        file.write(text)


def test_lines_are_passed_on_once_and_whole(log, caplog):
    """What environments print is an event of their pool's, whatever the server's level; a line waits for its end."""
    write(log, "hello\nhal")
    log.pass_on()
    log.pass_on()
    assert [(record.name, record.getMessage(), record.pool) for record in caplog.records] == [
        (OUTPUT, "hello", "train")
    ]
    write(log, "f a line\n\n")
    log.pass_on()
    assert [record.getMessage() for record in caplog.records] == ["hello", "half a line"]
    assert logging.getLogger(OUTPUT).isEnabledFor(logging.INFO)


def test_events_of_a_host_stay_events(log, caplog):
    """With their level, origin and traceback; the pool is this one, whatever they say."""
    write(log, json.dumps(EVENT) + "\n")
    log.pass_on()
    (record,) = caplog.records
    assert (record.levelno, record.name, record.pool) == (logging.WARNING, "vecserver.engine.envs", "train")
    assert log.tail() == ["WARNING row 3 is odd", "Traceback", "ValueError: odd"]


def test_what_looks_like_an_event_makes_no_logger(log, caplog):
    """Environments may print lines of any origin and with any traceback: they are passed on all the same."""
    write(log, json.dumps(EVENT | {"logger": "vecserver.made.up", "traceback": 5}) + "\n")
    log.pass_on()
    assert [record.getMessage() for record in caplog.records] == ["row 3 is odd"]
    assert log.tail() == ["WARNING row 3 is odd", "5"]
    assert "vecserver.made.up" not in logging.root.manager.loggerDict


def test_the_file_is_removed_whatever_is_in_it(log, monkeypatch):
    """A line that cannot be passed on leaves no file behind."""
    monkeypatch.setattr(hostlog, "record_of", lambda line, **fixed: 1 / 0)
    write(log, "x\n")
    with pytest.raises(ZeroDivisionError):
        log.close()
    assert not log.path.exists()


def test_the_tail_is_short(log):
    """The last twenty lines, and of long ones fewer; a line without an end is one of them."""
    write(log, "\n".join(f"line {i}" for i in range(100)))
    assert log.tail() == [f"line {i}" for i in range(80, 100)]
    write(log, "\n" + "\n".join("x" * 1500 for _ in range(10)) + "\n" + "y" * 9000)
    tail = log.tail()
    assert len("".join(tail)) <= hostlog._KEPT_CHARACTERS
    assert set(tail[-1]) == {"y"}


def test_the_file_begins_anew_when_it_is_long(log, monkeypatch):
    """Nothing that was read is kept on disk beyond the limit, and nothing is lost by it."""
    monkeypatch.setattr(hostlog, "_MOST_ON_DISK", 1000)
    for i in range(100):
        write(log, f"{i:99}\n")
        log.pass_on()
        assert log.path.stat().st_size <= 1100
    assert log.tail()[-1].strip() == "99"
    assert [int(line) for line in log.tail()] == list(range(80, 100))


def test_a_flood_is_cut(log, caplog, monkeypatch):
    """Of more than fits at a time, the end is passed on, and how much is missing is said."""
    monkeypatch.setattr(hostlog, "_MOST_AT_ONCE", 1000)
    write(log, "".join(f"{i:9}\n" for i in range(1000)))
    log.pass_on()
    messages = [record.getMessage().strip() for record in caplog.records]
    assert messages[0] == "[9000 bytes are left out]"
    assert messages[1:] == [str(i) for i in range(900, 1000)]


def test_the_end_is_remembered_when_the_file_is_gone(log):
    """An error is told later than the file is removed."""
    write(log, "last words")
    log.close()
    assert not log.path.exists()
    log.close()
    assert log.tail() == ["last words"]
