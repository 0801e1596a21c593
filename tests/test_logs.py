"""How events are written: a line of JSON each, or one for people, with what they are about."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from vecserver import logs


@pytest.fixture
def root():
    """The root logger, as it was before afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


def written(form, log, **fixed):
    stream = io.StringIO()
    logs.configure(form, "info", stream, **fixed)
    log(logging.getLogger("vecserver.test"))
    return stream.getvalue()


def fail(log):
    try:
        raise ValueError("no\nway")
    except ValueError:
        log.exception("it went wrong", extra={"seq": 7})


def test_an_event_is_one_line_of_json(root):
    """With its moment, level, origin and fields; what is below the level is not written."""
    text = written(
        "json",
        lambda log: (log.info("made %d\nrows", 3, extra={"pool": "train", "lease": 2, "nonsense": 1}), log.debug("no")),
    )
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("info", "vecserver.test", "made 3\nrows")
    assert (line["pool"], line["lease"]) == ("train", 2)
    assert "nonsense" not in line
    assert line["time"].endswith("Z")


def test_a_traceback_stays_in_its_line(root):
    """So that whoever collects lines has all of it."""
    text = written("json", fail)
    assert text.count("\n") == 1
    line = json.loads(text)
    assert (line["level"], line["seq"]) == ("error", 7)
    assert "ValueError: no\nway" in line["traceback"]


def test_an_event_for_people_is_a_sentence_with_its_fields(root):
    """The traceback follows on lines of its own."""
    assert written("text", lambda log: log.warning("slow", extra={"pool": "p"})).endswith(" WARNING slow  [pool=p]\n")
    assert "it went wrong  [seq=7]\nTraceback" in written("text", fail)


def test_fields_of_a_process_are_in_every_line(root):
    """A host says which pool it is of, also in lines of modules that do not know."""
    assert json.loads(written("json", lambda log: log.info("x"), pool="train"))["pool"] == "train"


def test_a_line_of_another_process_is_an_event_again(root):
    """With its moment, level, origin and fields, but for those that are known better."""
    text = written("json", fail, pool="someone's")
    record = logs.record_of(text.rstrip(), pool="train")
    again = json.loads(logs.JsonFormatter().format(record))
    assert again == json.loads(text) | {"pool": "train"}


@pytest.mark.parametrize(
    "line",
    [
        "plain text",
        '{"time": 3}',
        '{"time"',
        '{"time": "x", "level": "info", "logger": "vecserver.x", "message": "", "pid": 1}',
        '{"time": "2026-01-01T00:00:00Z", "level": "loud", "logger": "vecserver.x", "message": "", "pid": 1}',
        '{"time": "2026-01-01T00:00:00Z", "level": "info", "logger": "root", "message": "", "pid": 1}',
        '{"time": "2026-01-01T00:00:00Z", "level": "info", "logger": "vecserver.x", "message": "", "pid": Infinity}',
        '{"time": "2026-01-01T00:00:00Z", "level": "info", "logger": "vecserver.x", "message": "\\ud800", "pid": 1}',
        '{"time": "0001-01-01T00:00:00", "level": "info", "logger": "vecserver.x", "message": "", "pid": 1e999}',
        '{"time": ' + "[" * 100_000,
    ],
)
def test_what_environments_print_is_no_event(line):
    """Whatever it looks like."""
    assert logs.record_of(line) is None


def test_a_process_logs_to_one_place(root):
    """Configured again, it writes there and not to both."""
    first, second = io.StringIO(), io.StringIO()
    logs.configure("text", "info", first)
    logs.configure("text", None, second)
    logging.getLogger("vecserver.test").info("once")
    assert (first.getvalue(), second.getvalue().count("once")) == ("", 1)
    logs.configure("text")
    assert root.handlers[0].stream.fileno() == sys.stderr.fileno()


@pytest.mark.parametrize(
    ("logger", "text", "args", "line"),
    [
        (
            "uvicorn.error",
            '%s - "WebSocket %s" [accepted]',
            ("h:1", "/a?sid=secret"),
            'h:1 - "WebSocket /a" [accepted]',
        ),
        ("uvicorn.access", '%s - "%s %s" %d', ("h:1", "GET", "/a?b=c", 200), 'h:1 - "GET /a" 200'),
        ("uvicorn.error", "why? %s", ("so?",), "why? so?"),
    ],
)
def test_the_log_of_requests_has_no_queries(logger, text, args, line):
    """They are the asker's; other lines stay as they are."""
    record = logging.LogRecord(logger, logging.INFO, "", 0, text, args, None)
    assert logs.without_queries(record)
    assert record.getMessage() == line
