"""Every error the service raises on purpose, in one tree.

    MemoryServiceError
    ├── InvalidInput                 the caller can mend the request
    │   ├── InvalidMessage           a message or its place in the thread is not valid
    │   ├── PromptTooLarge           what must be in the prompt does not fit the budget
    │   └── NoUserMessage            a prompt needs a thread that ends with a user message
    ├── NotFound                     no such object in this project
    ├── Conflict                     the request contradicts the present state
    │   ├── IdempotencyConflict      one key, two different bodies
    │   └── IdempotencyInProgress    the first request with this key has not finished (retry)
    ├── Unauthenticated              missing, wrong or revoked API key
    ├── RateLimited                  too many requests; says when to send it again
    ├── PayloadTooLarge              the body is over the limit
    ├── RequestTimeout               the body stopped coming
    ├── UnsupportedMediaType         the body is not called what it must be
    └── Unavailable                  something we depend on is not there
        ├── DatabaseNotReady         unreachable, not migrated, or without pgvector
        ├── EmbedderUnavailable      the embedder cannot be loaded or reached, or refuses
        └── ProviderError            a model could not be called, or did not finish its reply

Each class carries a stable `code`, which clients may switch on; HTTP statuses are decided in `api/errors.py`.
Messages say what to change. They never quote message text or secrets.
"""

from __future__ import annotations

from collections.abc import Sequence


class MemoryServiceError(Exception):
    """Root of the tree. `details` is JSON-ready and shown to the caller."""

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        if code is not None:
            self.code = code


class InvalidInput(MemoryServiceError):
    code = "invalid_request"


class InvalidMessage(InvalidInput):
    code = "invalid_message"


class PromptTooLarge(InvalidInput):
    code = "prompt_too_large"


class NoUserMessage(InvalidInput):
    code = "no_user_message"


class NotFound(MemoryServiceError):
    code = "not_found"


class Conflict(MemoryServiceError):
    code = "conflict"


class ThreadMoved(Conflict):
    code = "thread_moved"


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"


class IdempotencyInProgress(Conflict):
    code = "idempotency_in_progress"


class Unauthenticated(MemoryServiceError):
    code = "unauthenticated"


class RateLimited(MemoryServiceError):
    """`headers` go out with the answer."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after_seconds: int, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers


class PayloadTooLarge(MemoryServiceError):
    code = "payload_too_large"


class RequestTimeout(MemoryServiceError):
    code = "request_timeout"


class UnsupportedMediaType(MemoryServiceError):
    code = "unsupported_media_type"


class Unavailable(MemoryServiceError):
    code = "unavailable"


class DatabaseNotReady(Unavailable):
    code = "database_not_ready"


class CountUnavailable(Unavailable):
    """The provider did not say how many tokens a request has."""

    code = "count_unavailable"

    def __init__(self, message: str, *, was_asked: bool = True) -> None:
        super().__init__(message)
        self.was_asked = was_asked


class EmbedderUnavailable(Unavailable):
    """`is_retryable`: the same texts may be embedded later. `retry_after_seconds`: the embedder said when."""

    code = "embedder_unavailable"

    def __init__(self, message: str, *, is_retryable: bool = True, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable
        self.retry_after_seconds = retry_after_seconds


class ProviderError(Unavailable):
    """`code` says what went wrong: `provider_unreachable`, `provider_timeout`, `provider_rate_limited`,
    `provider_overloaded`, `provider_failed` (it says the fault is its own), `provider_stream_broken` (the reply stopped
    or made no sense), `provider_refused` (the request is wrong), `provider_unauthorized`, `provider_model_unknown`,
    `provider_request_too_large`.

    `is_retryable`: the same request may succeed later. `retry_after_seconds`: the provider said when. The message may
    quote the provider, and so text of the request: it is for the caller, never for a log.
    """

    code = "provider_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        provider: str,
        model: str,
        is_retryable: bool,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        request_id: str | None = None,
    ) -> None:
        told = {"status": status, "provider_request_id": request_id}
        details = {key: value for key, value in told.items() if value is not None}
        super().__init__(message, code=code, provider=provider, model=model, is_retryable=is_retryable, **details)
        self.is_retryable = is_retryable
        self.retry_after_seconds = retry_after_seconds
