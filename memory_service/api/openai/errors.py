"""Errors as OpenAI tells them: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from memory_service.errors import Conflict, IdempotencyInProgress, InvalidInput

PREFIX = "/openai/v1"
#: For an error that OpenAI gives no code.
NO_CODE = "none"
_CODES = {
    "unauthenticated": "invalid_api_key",
    "rate_limited": "rate_limit_exceeded",
    "invalid_request": None,
    "invalid_message": None,
    "not_found": None,
    "conflict": None,
    NO_CODE: None,
}
_TYPES = {429: "rate_limit_error", 408: "timeout_error"}


def speaks(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def status_of(status: int, code: str) -> int:
    """What is wrong with a request is 400. The SDKs send again what is answered 409, and a lock would only refuse it
    again; what is worth sending again is a request whose first sending is still worked on."""
    if status in (409, 415, 422) and code != IdempotencyInProgress.code:
        return 400
    return status


def error_body(status: int, code: str, message: str, details: Mapping[str, Any]) -> dict[str, Any]:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = details.get("field")
    return {"error": {"message": message, "type": kind, "param": param, "code": _CODES.get(code, code)}}


@contextmanager
def told_when_locked(text: str, *, code: str = NO_CODE, param: str | None = None) -> Iterator[None]:
    """Tell a thread's lock in OpenAI's words; `{run}` in them is the id of the run that is active."""
    try:
        yield
    except Conflict as error:
        if error.code != "thread_busy":
            raise
        run = error.details.get("run_id", "that waits")
        raise InvalidInput(text.replace("{run}", str(run)), code=code, **({"field": param} if param else {})) from error
