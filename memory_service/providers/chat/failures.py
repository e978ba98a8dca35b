"""Whatever goes wrong between here and a model, as a ProviderError. Pure functions."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from memory_service.errors import ProviderError
from memory_service.providers.chat.wire import Malformed, read_object
from memory_service.providers.responses import retry_after, words

_LONGEST_REASON_CHARACTERS = 500
_LONGEST_WAIT_SECONDS = 3_600.0
_CODE_OF_STATUS = {
    400: "provider_refused",
    401: "provider_unauthorized",
    402: "provider_unauthorized",  # the account cannot pay
    403: "provider_unauthorized",
    404: "provider_model_unknown",
    408: "provider_failed",
    409: "provider_failed",
    413: "provider_request_too_large",
    425: "provider_failed",
    429: "provider_rate_limited",
    503: "provider_overloaded",
    529: "provider_overloaded",
}
CODES = frozenset({*_CODE_OF_STATUS.values(), "provider_unreachable", "provider_timeout", "provider_stream_broken"})
_NEVER_MENDS = frozenset(
    {"provider_refused", "provider_unauthorized", "provider_model_unknown", "provider_request_too_large"}
)
# An error in the middle of a stream has no status of its own, only a type.
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 504,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "api_error": 500,
    "server_error": 500,
    "overloaded_error": 529,
}
# Each server says in words of its own that a request is longer than its model reads.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|prompt is too long|(maximum|available) context"
    r"|context (length|size|window|limit)|too many (input |prompt )?tokens",
    re.IGNORECASE,
)
# Waiting does not fill an empty account.
_NO_QUOTA = "insufficient_quota"
_KEYS = re.compile(r"\b(sk|msk|gsk)[-_][\w*.…-]{4,}")


@dataclass(frozen=True, slots=True)
class Called:
    """Who was called for what. `secrets` never get into a message."""

    provider: str
    model: str
    address: str = ""
    secrets: tuple[str, ...] = ()

    def error(self, code: str, message: str, *, is_retryable: bool, **told: Any) -> ProviderError:
        message = self._without_secrets(message)[:_LONGEST_REASON_CHARACTERS]
        return ProviderError(
            message, code=code, provider=self.provider, model=self.model, is_retryable=is_retryable, **told
        )

    def _without_secrets(self, text: str) -> str:
        for secret in filter(None, self.secrets):
            text = text.replace(secret, "…")
        return _KEYS.sub("…", text)


def not_opened(called: Called, error: Exception) -> ProviderError:
    """No answer came: what the SDK raised, or what lies under it."""
    response = getattr(error, "response", None)
    if isinstance(response, httpx2.Response):
        return answered(called, response)
    under = error.__cause__ if isinstance(error.__cause__, httpx2.TransportError) else error
    match under:
        case httpx2.TimeoutException() if not isinstance(under, httpx2.ConnectTimeout):
            return timed_out(called)
        case httpx2.TransportError() if not isinstance(under, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            where = f" at {called.address}" if called.address else ""
            # Not its text: a proxy's address may hold a password.
            message = f"{called.provider} cannot be reached{where} ({type(under).__name__})."
            return called.error("provider_unreachable", message, is_retryable=True)
    message = f"The call of {called.provider} could not be made ({type(under).__name__}); check its key and address."
    return called.error("provider_failed", message, is_retryable=False)


def answered(called: Called, response: httpx2.Response) -> ProviderError:
    """An answer that is an error. Its body has been read."""
    headers = response.headers
    told = {"retry_after_seconds": _wait(headers), "request_id": request_id_of(response)}
    try:
        body = read_object(response.content)
    except Malformed:
        body = {}  # a page of some proxy
    return _refusal(called, response.status_code, body.get("error", body), **told)


def told_in_stream(called: Called, error: Any, request_id: str | None) -> ProviderError:
    """An error that came in place of the rest of a reply."""
    status = next((found for kind in _kinds(error) if (found := _status(kind))), 500)
    return _refusal(called, status, error, request_id=request_id)


def cut_off(called: Called, error: Exception, request_id: str | None) -> ProviderError:
    """What came of a reply was no whole one, or made no sense."""
    if isinstance(error, httpx2.TimeoutException):
        return timed_out(called, request_id)
    connection = isinstance(error, httpx2.HTTPError | httpx2.StreamError)
    what = f"the connection ended ({type(error).__name__})" if connection else str(error).rstrip(".")
    message = f"The reply of {called.provider} broke off: {what}."
    return called.error("provider_stream_broken", message, is_retryable=True, request_id=request_id)


def timed_out(called: Called, request_id: str | None = None) -> ProviderError:
    message = f"{called.provider} sent nothing for too long."
    return called.error("provider_timeout", message, is_retryable=True, request_id=request_id)


def _refusal(called: Called, status: int, error: Any, **told: Any) -> ProviderError:
    kinds, reason = " ".join(map(str, _kinds(error))), words(error)
    code = _CODE_OF_STATUS.get(status) or ("provider_failed" if status >= 500 else "provider_refused")
    if code == "provider_refused" and _TOO_LONG.search(f"{kinds} {reason}"):
        code = "provider_request_too_large"
    message = f"{called.provider} answered {status}" + (f": {reason}" if reason else ".")
    is_retryable = code not in _NEVER_MENDS and _NO_QUOTA not in kinds
    return called.error(code, message, is_retryable=is_retryable, status=status, **told)


def _kinds(error: Any) -> list[Any]:
    return [error.get(key) for key in ("type", "code")] if isinstance(error, Mapping) else []


def _status(kind: Any) -> int | None:
    """The status that stands for an error's type; some servers send it as the code."""
    if isinstance(kind, str) and kind in _STATUS_OF_TYPE:
        return _STATUS_OF_TYPE[kind]
    text = str(kind)
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() and text[0] in "45" else None


def _wait(headers: Mapping[str, str]) -> float | None:
    milliseconds = retry_after(headers.get("retry-after-ms"), now=time.time())
    seconds = milliseconds / 1000 if milliseconds is not None else None
    if seconds is None:
        seconds = retry_after(headers.get("retry-after"), now=time.time())
    return None if seconds is None else min(seconds, _LONGEST_WAIT_SECONDS)


def request_id_of(response: httpx2.Response) -> str | None:
    """By which the provider finds the request in its own log."""
    return response.headers.get("request-id") or response.headers.get("x-request-id")
