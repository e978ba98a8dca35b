"""What vendors' HTTP responses say besides what was asked for: when to come back, and why not. Pure functions."""

from __future__ import annotations

import json
import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

_LONGEST_REASON_CHARACTERS = 300


def retry_after(header: str | None, *, now: float) -> float | None:
    """The header in seconds from now, whether it holds seconds or a date; None if there is no readable one."""
    try:
        seconds = float(header or "")
    except ValueError:
        seconds = _seconds_until(header or "", now)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _seconds_until(http_date: str, now: float) -> float:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now


def reason_of(content: bytes) -> str:
    """The sentence in an error body. Never the body itself: some servers send back what they were sent."""
    try:
        return words(json.loads(content))[:_LONGEST_REASON_CHARACTERS]
    except (ValueError, RecursionError):
        return ""


def words(body: Any) -> str:
    """The sentence in an error, wherever the server put it."""
    match body:
        case str():
            return " ".join(body.split())
        case {"error": inner} | {"message": inner} | {"detail": inner} | {"msg": inner} | [inner, *_]:
            return words(inner)
    return ""
