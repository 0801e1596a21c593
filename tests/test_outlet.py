"""Logs on a full disk: whoever writes goes on, whole lines are lost, and how many is said when there is room."""

from __future__ import annotations

import io
import json
import logging
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from vecserver import logs
from vecserver.outlet import outlive


@contextmanager
def disk_of(size: int):
    """The kernel refuses to make files longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def file(tmp_path):
    """A log, and a stream to it in whose place another one is put."""
    path = tmp_path / "log"
    with path.open("a", buffering=1) as stream:
        yield path, stream


def test_a_full_disk_loses_lines_and_nothing_else(file):
    """One that was cut off is ended; the next one that fits says how much is not there, once."""
    path, stream = file
    out = outlive(stream)
    out.write("first\n")
    with disk_of(10):
        out.write("second line\n")
        for number in range(3):
            out.write(f"line {number}\n")
    assert path.read_text() == "first\nseco"
    out.write("again\n")
    out.write("and again\n")
    assert path.read_text().splitlines() == [
        "first",
        "seco",
        "[4 lines (29 bytes) could not be written here: File too large]",
        "again",
        "and again",
    ]


def test_what_was_lost_is_said_when_there_is_room_for_that(file):
    """Room for a part of the sentence is none; what is lost meanwhile counts."""
    path, stream = file
    out = outlive(stream)
    with disk_of(0):
        out.write("lost\n")
    with disk_of(20):
        out.write("lost, too\n")
    out.write("here\n")
    last = path.read_text().splitlines()[-2:]
    assert last == ["[2 lines (15 bytes) could not be written here: File too large]", "here"]


def test_a_device_that_is_full_takes_everything():
    """As does any other that refuses."""
    with Path("/dev/full").open("a") as stream:
        out = outlive(stream)
        for _ in range(3):
            out.write("x" * 100_000)
        out.flush()


def test_a_stream_without_a_descriptor_stays():
    """There is no disk behind it."""
    stream = io.StringIO()
    assert outlive(stream) is stream


def test_a_log_of_json_stays_one(file, monkeypatch):
    """The line that says what was lost is an event, too."""
    path, stream = file
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("json", "info")
        with disk_of(0):
            logging.getLogger("vecserver.test").warning("lost")
        logging.getLogger("vecserver.test").warning("here")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lost, here = [json.loads(line) for line in path.read_text().splitlines()]
    assert (lost["level"], here["message"]) == ("warning", "here")
    assert lost["message"].startswith("1 lines (")
