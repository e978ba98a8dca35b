"""Whether to try again, and when: pure functions of what came back."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx2

Outcome = httpx2.Response | httpx2.RequestError
"""What one attempt ended in."""

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 8.0
LONGEST_RETRY_AFTER_SECONDS = 60.0

_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_LASTING_FAILURES = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)


def is_retryable(outcome: Outcome, code: str | None) -> bool:
    """`code` is that of an error body: of all conflicts, only the one that will pass is worth a retry."""
    if isinstance(outcome, httpx2.Response):
        return outcome.status_code in _STATUSES or (outcome.status_code == 409 and code == "idempotency_in_progress")
    return isinstance(outcome, httpx2.TransportError) and not isinstance(outcome, _LASTING_FAILURES)


def retry_delay(outcome: Outcome, retries_made: int, *, now: float, jitter: float) -> float | None:
    """Seconds to wait; None when the server asks for more patience than a call should have.

    `now` is in epoch seconds, `jitter` between 0 and 1.
    """
    asked = retry_after(outcome, now=now) if isinstance(outcome, httpx2.Response) else None
    if asked is not None:
        return asked if asked <= LONGEST_RETRY_AFTER_SECONDS else None
    return min(FIRST_DELAY_SECONDS * 2.0**retries_made, LONGEST_DELAY_SECONDS) * (1 - jitter / 2)


def retry_after(response: httpx2.Response, *, now: float) -> float | None:
    """The header in seconds from now, whether it holds seconds or a date; None if absent or unreadable."""
    header = response.headers.get("retry-after", "")
    try:
        seconds = float(header)
    except ValueError:
        seconds = _seconds_until(header, now)
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _seconds_until(http_date: str, now: float) -> float:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return math.nan
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
