"""One call over all its attempts: the part of the client that knows HTTP but neither sockets nor sleep.

A shell asks for `http_request()`, sends it and shows what came back to `delay_before_retry()`; while that
names a delay it waits and sends again; then it takes `result()` (for a stream, `accepted()` and the bytes).
"""

from __future__ import annotations

import json
import logging
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import httpx2

from ._config import Config
from ._errors import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    error_class,
)
from ._request import Request
from ._retry import Outcome, is_retryable, retry_after, retry_delay
from ._version import __version__

T = TypeVar("T")

logger = logging.getLogger("memory_client")


class Call(Generic[T]):
    def __init__(self, config: Config, request: Request[T]) -> None:
        self._config = config
        self._request = request
        self._idempotency_key = request.idempotency_key or uuid.uuid4().hex
        self._retries_made = 0
        self._may_have_taken_effect = False

    def http_request(self) -> httpx2.Request:
        request = self._request
        return httpx2.Request(
            request.method,
            self._config.base_url + request.path,
            params=request.query or None,
            content=request.body,
            headers=self._headers(),
            extensions={"timeout": httpx2.Timeout(self._config.timeout).as_dict()},
        )

    def delay_before_retry(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the next attempt; None when this outcome is final."""
        if self._retries_made >= self._config.max_retries or not is_retryable(outcome, _error_code(outcome)):
            return None
        delay = retry_delay(outcome, self._retries_made, now=time.time(), jitter=random.random())  # noqa: S311
        if delay is not None:
            self._retries_made += 1
            self._may_have_taken_effect |= not isinstance(outcome, httpx2.Response) or outcome.is_server_error
            logger.debug("%s: %s; trying again in %.2f s", self._name, _short(outcome), delay)
        return delay

    def result(self, outcome: Outcome) -> T:
        response = self.accepted(outcome)
        payload = self._json(response) if response.is_success and response.content else None
        try:
            return self._request.parse(payload)
        except ValueError as error:
            raise self._unreadable(response, str(error)) from None

    def accepted(self, outcome: Outcome) -> httpx2.Response:
        """The response, if it is what the call was made for; raises otherwise."""
        if not isinstance(outcome, httpx2.Response):
            raise self._connection_error(outcome) from outcome
        if outcome.is_success or self._deleted_by_earlier_attempt(outcome):
            return outcome
        raise self._status_error(outcome)

    @contextmanager
    def translated_errors(self, response: httpx2.Response) -> Iterator[None]:
        """For the body of a stream, which can break after the status was read, or make no sense."""
        try:
            yield
        except httpx2.RequestError as error:
            raise self._connection_error(error) from error
        except ValueError as error:
            raise self._unreadable(response, str(error)) from None

    @property
    def _name(self) -> str:
        return f"{self._request.method} {self._request.path}"

    def _headers(self) -> dict[str, str]:
        headers = {
            **self._config.default_headers,
            "Authorization": f"Bearer {self._config.api_key}",
            "Accept": "application/json, application/x-ndjson, text/event-stream",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": f"memory-client-python/{__version__}",
            **dict(self._request.headers),
        }
        if self._request.body is not None:
            headers["Content-Type"] = self._request.content_type
        if self._request.method == "POST":
            headers["Idempotency-Key"] = self._idempotency_key
        return headers

    def _deleted_by_earlier_attempt(self, response: httpx2.Response) -> bool:
        """A DELETE whose answer was lost finds nothing when it is sent again: that is success."""
        return self._request.method == "DELETE" and response.status_code == 404 and self._may_have_taken_effect

    def _json(self, response: httpx2.Response) -> Any:
        try:
            return json.loads(response.content)
        except ValueError:
            content_type = response.headers.get("content-type", "no content type")
            raise self._unreadable(response, f"expected JSON, got {content_type}") from None

    def _unreadable(self, response: httpx2.Response, reason: str) -> APIResponseValidationError:
        return APIResponseValidationError(f"{self._name}: unreadable answer: {reason}", response=response)

    def _connection_error(self, error: httpx2.RequestError) -> APIError:
        attempts = f" ({self._retries_made + 1} attempts)" if self._retries_made else ""
        if isinstance(error, httpx2.TimeoutException):
            return APITimeoutError(f"{self._name}: no answer in time{attempts}")
        reason = str(error) or type(error).__name__
        return APIConnectionError(f"{self._name}: connection to {self._config.base_url} failed{attempts}: {reason}")

    def _status_error(self, response: httpx2.Response) -> APIStatusError:
        body = _error_body(response)
        error = _error_object(body)
        message = error.get("message") or response.reason_phrase or "no explanation given"
        return error_class(response.status_code)(
            str(message).replace(self._config.api_key, "[api key]"),
            response=response,
            code=error.get("code"),
            details=error.get("details"),
            request_id=body.get("request_id") or response.headers.get("x-request-id"),
            retry_after_seconds=retry_after(response, now=time.time()),
        )


def _error_body(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error_object(body: dict[str, Any]) -> dict[str, Any]:
    error = body.get("error")
    return error if isinstance(error, dict) else {}


def _error_code(outcome: Outcome) -> str | None:
    if not isinstance(outcome, httpx2.Response) or outcome.status_code != 409:
        return None
    return _error_object(_error_body(outcome)).get("code")


def _short(outcome: Outcome) -> str:
    return str(outcome.status_code) if isinstance(outcome, httpx2.Response) else type(outcome).__name__
