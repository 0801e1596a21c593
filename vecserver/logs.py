"""How the processes of a server say what happens: one line of JSON an event, or one for people at a terminal.

Everything goes through the standard library's ``logging``. What an event is about travels beside its text, as
``extra={"pool": …, "lease": …}``, and comes out as fields of the line.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from vecserver.outlet import outlive

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FIELDS", "FORMATS", "JsonFormatter", "TextFormatter", "configure", "record_of", "without_queries"]

FORMATS: Final = ("json", "text")

FIELDS: Final = ("pool", "lease", "seq", "epoch", "driver", "env_id", "code", "host_pid")
"""What an event may be about, in the order in which lines have it."""

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_OURS: Final = "vecserver."


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``pid``, ``message``, the fields, ``traceback``.

    Args:
        fixed: Fields that every line of this process has.
    """

    def __init__(self, fixed: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._fixed = dict(fixed or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_fields(record, self._fixed),
        }
        traceback = _traceback(self, record)
        if traceback:
            line["traceback"] = traceback
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One line for people, with the fields at its end; a traceback follows on lines of its own.

    Args:
        fixed: Fields that every line of this process has.
    """

    def __init__(self, fixed: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._fixed = dict(fixed or {})

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines, without the end."""
        time = _moment(record).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{name}={value}" for name, value in _fields(record, self._fixed).items())
        text = f"{time} {record.levelname:<7} {record.getMessage()}"
        return "\n".join(filter(None, (f"{text}  [{fields}]" if fields else text, _traceback(self, record))))


def configure(form: str, level: str | None = None, stream: TextIO | None = None, **fixed: Any) -> None:
    """Have this process log to a stream, in the place of wherever it logged before.

    Args:
        form: ``json`` or ``text``.
        level: The least that is logged, as ``info``; None to leave it as it is.
        stream: stderr if not given, where lines that cannot be written are lost, and counted in a later one.
        **fixed: Fields that every line has.
    """
    formatter = (JsonFormatter if form == "json" else TextFormatter)(fixed)

    def line(text: str) -> str:
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
        return formatter.format(logging.makeLogRecord(about))

    handler = logging.StreamHandler(stream or outlive(sys.stderr, line))
    handler.setFormatter(formatter)
    handler.addFilter(without_queries)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    if level is not None:
        root.setLevel(level.upper())


def without_queries(record: logging.LogRecord) -> bool:
    """A filter for the log of requests: what follows an address's question mark is for who is asked alone."""
    is_request = record.name == "uvicorn.access" or (record.name == "uvicorn.error" and "WebSocket" in str(record.msg))
    if is_request and isinstance(record.args, tuple):
        record.args = tuple(each.partition("?")[0] if isinstance(each, str) else each for each in record.args)
    return True


def record_of(line: str, **fixed: Any) -> logging.LogRecord | None:
    """The event that a ``JsonFormatter`` of another process of this server wrote; None where the line is none.

    Args:
        line: One line.
        **fixed: Fields that it has, whatever the line says.
    """
    if not line.startswith('{"time"'):
        return None
    try:
        said = json.loads(line)
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()  # as it is written again
        level, name, created = _LEVELS[said["level"]], str(said["logger"]), datetime.fromisoformat(said["time"])
        values = {
            "name": name,
            "levelno": level,
            "levelname": said["level"].upper(),
            "msg": str(said["message"]),
            "created": created.timestamp(),
            "process": int(said["pid"]),
            "exc_text": None if said.get("traceback") is None else str(said["traceback"]),
            **{field: said[field] for field in FIELDS if field in said},
            **fixed,
        }
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError):
        # an environment may print anything
        return None
    return logging.makeLogRecord(values) if name.startswith(_OURS) else None


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord, fixed: Mapping[str, Any]) -> dict[str, Any]:
    said = {**fixed, **{name: value for name in FIELDS if (value := record.__dict__.get(name)) is not None}}
    return {name: said[name] for name in FIELDS if name in said}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    return record.exc_text or ""
