"""Logs: one line a record, on standard error. Never message text, never a secret."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger("memory_service")
_PACKAGE = Path(__file__).parents[1]


class JsonFormatter(logging.Formatter):
    """What is not in the message goes in as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **_fields(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The same for people: time, level, message, then `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{name}={_shown(value)}" for name, value in _fields(record).items() if value is not None)
        return f"{time} {record.levelname.lower():7} {_one_line(record.getMessage())} {fields}".rstrip()


def configure_logging(level: str, form: Literal["auto", "text", "json"] = "auto") -> None:
    handler = logging.StreamHandler(sys.stderr)
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    # What others log goes through the same form: Python's own would quote exceptions.
    logging.basicConfig(handlers=[handler])
    # It warns when a query is cancelled or a pipeline is left, as whenever a reader disconnects: what went wrong is raised
    # to us, or is nothing but the connection that we close.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[0] is not None:
        # The type and the place, not the text: an exception's text may quote a statement's parameters.
        fields["error"] = record.exc_info[0].__name__
        fields["at"] = _frames(record)
    return fields


def _shown(value: Any) -> str:
    plain = str(value)
    return plain if plain and not any(c.isspace() or c == '"' for c in plain) else json.dumps(value, default=str)


def _one_line(message: str) -> str:
    return message.replace("\r", "\\r").replace("\n", "\\n")


def _frames(record: logging.LogRecord) -> list[str]:
    """Where it passed through our code, and where it began."""
    assert record.exc_info
    frames = traceback.extract_tb(record.exc_info[2])
    own = [frame for frame in frames[:-1] if _PACKAGE in Path(frame.filename).parents]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in [*own[-12:], *frames[-1:]]]
