"""Logs: one JSON object a line, on standard error. Never message text, never a secret."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger("memory_service")
_PACKAGE = Path(__file__).parent


class JsonFormatter(logging.Formatter):
    """What is not in the message goes in as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            # The type and the place, not the text: an exception's text may quote a statement's parameters.
            line["error"] = record.exc_info[0].__name__
            line["at"] = _frames(record)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    # What others log goes through the same form: Python's own would quote exceptions.
    logging.basicConfig(handlers=[handler])
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def _frames(record: logging.LogRecord) -> list[str]:
    """Where it passed through our code, and where it began."""
    assert record.exc_info
    frames = traceback.extract_tb(record.exc_info[2])
    own = [frame for frame in frames[:-1] if _PACKAGE in Path(frame.filename).parents]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in [*own[-12:], *frames[-1:]]]
