"""Logs of a worker on standard error: lines for people, or JSON lines for machines. Both carry the fields given as ``extra=``."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from absurd.cli.text import escape, escape_json
from absurd.logs import TaskFilter

# What every record has; anything else on it came from extra=.
_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}


# Libraries that tell the life of each connection at length, and as errors what is met and mended here: shown at debug only.
_TALKATIVE = ("pika", "watchfiles")


class LogFormat(StrEnum):
    """Forms of a log line."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """From which severity on records are shown."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def set_up(form: LogFormat, level: LogLevel) -> None:
    """Sends the records of this process to standard error, those of the user's own code included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if form is LogFormat.TEXT else JsonFormatter())
    handler.addFilter(TaskFilter(keep_replayed=level is LogLevel.DEBUG))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.NOTSET if level is LogLevel.DEBUG else logging.CRITICAL)
    logging.captureWarnings(True)


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD and value is not None}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # a log line that cannot be formatted is still a log line
        return f"{record.msg!r} ({type(error).__name__} while it was formatted)"


def _trace(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


class TextFormatter(logging.Formatter):
    """``2026-01-31T08:00:00.000Z INFO    absurd.worker: message key=value``, then the traceback, if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text; a message cannot forge a line of its own."""
        parts = [f"{_moment(record)} {record.levelname:<7} {record.name}: {escape(_message(record))}"]
        parts += [f"{key}={self._value(value)}" for key, value in _fields(record).items()]
        trace = _trace(record)
        return " ".join(parts) + (f"\n{escape(trace, keep=chr(10))}" if trace else "")

    @staticmethod
    def _value(value: Any) -> str:
        text = _safe_str(value)
        return escape(text) if text and not set(text) & set(" \"'=\n\t") else escape_json(json.dumps(text, ensure_ascii=False))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, the extra fields, error."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as JSON; what is no JSON is shown as text."""
        line: dict[str, Any] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line |= {key: value for key, value in _fields(record).items() if key not in line}
        if trace := _trace(record):
            line["error"] = trace
        try:
            return json.dumps(line, default=_safe_str)
        except (TypeError, ValueError, RecursionError):
            return json.dumps({key: _safe_str(value) for key, value in line.items()})


def _safe_str(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} whose str() raised {type(error).__name__}>"
