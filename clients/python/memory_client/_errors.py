"""Every error this client raises on purpose, in one tree.

    MemoryClientError
    ├── ConfigurationError               the client cannot be built: no API key, an unusable base URL, …
    ├── RunError                         a run that was to give a reply did not; `run` is how it stands
    │   ├── RunFailedError               it failed, expired, was cancelled, or waits for tools that were not given
    │   └── ToolRoundTripsError          it called tools over and over; it is cancelled
    └── APIError                         a call failed
        ├── APIConnectionError           no answer: refused, dropped, unresolvable, …
        │   └── APITimeoutError          no answer in time
        ├── APIResponseValidationError   an answer this client cannot read
        └── APIStatusError               an answer that is an error; `code` is what to switch on
            ├── BadRequestError 400            ├── ConflictError 409
            ├── AuthenticationError 401        ├── RequestTooLargeError 413
            ├── PermissionDeniedError 403      ├── UnprocessableEntityError 422
            ├── NotFoundError 404              ├── RateLimitError 429
            └── InternalServerError 500 and above

A call that is used wrongly (an empty id, say) raises `TypeError` or `ValueError` before anything is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from .runs import Run


class MemoryClientError(Exception):
    """Root of the tree."""


class ConfigurationError(MemoryClientError):
    """The message says which argument or variable to set."""


class RunError(MemoryClientError):
    def __init__(self, code: str, message: str, run: Run) -> None:
        super().__init__(f"{code}: {message} (run_id={run.id})")
        self.code = code
        self.message = message
        self.run = run


class RunFailedError(RunError):
    """`code` and `message` are those of the run's `last_error`; without one, `code` is the run's status."""


class ToolRoundTripsError(RunError):
    """`code` is `max_round_trips`."""


class APIError(MemoryClientError):
    """`message` says what happened; `str(error)` adds status, code and request id where there are any."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class APIConnectionError(APIError):
    """The network's own exception is `__cause__`."""


class APITimeoutError(APIConnectionError):
    pass


class APIResponseValidationError(APIError):
    """A successful status with a body that is not what the API promises: a proxy's page, a cut answer, …"""

    def __init__(self, message: str, *, response: httpx2.Response) -> None:
        super().__init__(message)
        self.response = response
        self.status_code = response.status_code
        self.request_id = response.headers.get("x-request-id")

    def __str__(self) -> str:
        return f"{self.status_code}: {self.message}{_suffix(self.request_id)}"


class APIStatusError(APIError):
    def __init__(
        self,
        message: str,
        *,
        response: httpx2.Response,
        code: str | None = None,
        details: dict[str, Any] | None = None,
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.response = response
        self.status_code = response.status_code
        self.code = code
        self.details = details or {}
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        name = f"{self.status_code} {self.code}" if self.code else str(self.status_code)
        return f"{name}: {self.message}{_suffix(self.request_id)}"


class BadRequestError(APIStatusError):
    pass


class AuthenticationError(APIStatusError):
    pass


class PermissionDeniedError(APIStatusError):
    pass


class NotFoundError(APIStatusError):
    pass


class ConflictError(APIStatusError):
    pass


class RequestTooLargeError(APIStatusError):
    pass


class UnprocessableEntityError(APIStatusError):
    pass


class RateLimitError(APIStatusError):
    """`retry_after_seconds` is what the server asked for, if it did."""


class InternalServerError(APIStatusError):
    pass


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: RequestTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def error_class(status_code: int) -> type[APIStatusError]:
    if status_code >= 500:
        return InternalServerError
    return _BY_STATUS.get(status_code, APIStatusError)


def _suffix(request_id: str | None) -> str:
    return f" (request_id={request_id})" if request_id else ""


REFUSED = (BadRequestError, RequestTooLargeError, UnprocessableEntityError)
"""The request cannot be answered otherwise, however often it is sent."""
