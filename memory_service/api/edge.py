"""The outermost layer, as plain ASGI: request ids, server times, body limits, refusals while draining, a last catch for
what nobody foresaw, one log line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory_service.api.errors import error_response, internal_error, status_of
from memory_service.api.intake import Intake
from memory_service.errors import MemoryServiceError, PayloadTooLarge, RequestTimeout, Unavailable
from memory_service.runtime import new_id
from memory_service.store.projects import AuthenticatedKey
from memory_service.telemetry import logger, metrics

# A client that is still sending would see a broken connection instead of the answer, so a moderate excess is read.
_DRAINED_TIMES_LIMIT = 4
_IMPORT_TIMES_BODY = 100
# A body that comes in drops holds its connection no longer than one that does not come.
_MIN_BYTES_PER_SECOND = 1_000
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: Asked while the service drains too, and waited for by nobody.
WITHOUT_INTAKE = frozenset({"/healthz", "/readyz", "/metrics"})
_STOPPING = "The service is stopping; send it again."


class Edge:
    """Bodies may have `max_body_bytes`; an import, which is read as a stream, a hundred times as many.

    `stop_runs` ends what is worked on when `intake` has drained for long enough, so that who waits for it is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        intake: Intake,
        stop_runs: Callable[[], Awaitable[None]],
        *,
        max_body_bytes: int,
        body_timeout_seconds: float,
    ) -> None:
        self._app = app
        self.intake = intake
        self.stop_runs = stop_runs
        self._max_body_bytes = max_body_bytes
        self._body_timeout_seconds = body_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self.intake)
        try:
            if scope["path"] in WITHOUT_INTAKE:
                await self._answer(exchange, scope, receive)
            elif self.intake.draining:
                await exchange.refuse(receive, Unavailable(_STOPPING))
            else:
                with self.intake.taken():
                    await self._answer(exchange, scope, receive)
        except asyncio.CancelledError:  # the service ends, and waits no longer for what runs
            if exchange.status != 0:
                raise
            await exchange.refuse(receive, Unavailable(_STOPPING))
        except Exception:
            logger.exception("unforeseen error", extra={"fields": {"request_id": exchange.request_id}})
            if exchange.status == 0:
                await internal_error(scope)(scope, receive, exchange.send)
        finally:
            exchange.finish()

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        is_import = scope["path"].endswith("/import")
        times = _IMPORT_TIMES_BODY if is_import else 1
        body = _LimitedBody(scope, receive, self._max_body_bytes, times, self._body_timeout_seconds)
        scope["memory.body"] = body
        if body.declared_too_large:
            await body.drain()
            await exchange.refuse(receive, body.error())
        else:
            await self._app(scope, body.receive, exchange.send)


class _Exchange:
    """One request and its answer, as far as the edge looks at them."""

    def __init__(self, scope: Scope, send: Send, intake: Intake) -> None:
        self._scope = scope
        self._send = send
        self._intake = intake
        self._started = time.perf_counter()
        self.request_id = scope["memory.request_id"] = new_id("req", datetime.now(UTC))
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message["headers"],
                (b"x-request-id", self.request_id.encode()),
                (b"server-timing", b"app;dur=%.2f" % self._milliseconds()),
                *([(b"connection", b"close")] if self._intake.draining else []),
                *self._scope.get("memory.headers", ()),
            ]
        await self._send(message)

    async def refuse(self, receive: Receive, error: MemoryServiceError) -> None:
        answer = error_response(self._scope, status_of(error), error.code, error.message, error.details)
        await answer(self._scope, receive, self.send)

    def finish(self) -> None:
        """Count it, and log it."""
        # Any word may stand there; only those that HTTP knows are repeated.
        method = self._scope["method"] if self._scope["method"] in METHODS else "other"
        route = _template(self._scope)
        milliseconds = self._milliseconds()
        metrics.count_request(route, method, self.status, milliseconds / 1000)
        key: AuthenticatedKey | None = self._scope.get("memory.key")
        fields = {
            "request_id": self.request_id,
            "method": method,
            "route": route,
            "status": self.status,
            "duration_ms": round(milliseconds, 2),
            "project": key.project_id if key else None,
            "key": key.id if key else None,
        }
        logger.log(logging.WARNING if self.status >= 500 else logging.INFO, "request", extra={"fields": fields})

    def _milliseconds(self) -> float:
        return (time.perf_counter() - self._started) * 1000


def _template(scope: Scope) -> str | None:
    """The route that a path was found by, without the converters of its parameters; None if there is no such route."""
    if route := scope.get("route"):
        return str(getattr(route, "path_format", route.path))
    # Not every route says that it was taken. One without parameters is its path.
    return scope["path"] if "endpoint" in scope and not scope.get("path_params") else None


class _LimitedBody:
    """Of `max_bytes` times `times`, and waited for no longer than it is worth."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, times: int, timeout_seconds: float) -> None:
        self._receive = receive
        self._times = times
        self._limit = max_bytes * times
        self._timeout_seconds = timeout_seconds
        self._waited_seconds = 0.0
        self._read = 0
        self._ended = False
        length = dict(scope["headers"]).get(b"content-length", b"")
        self._declared = int(length) if length.isdigit() else 0

    @property
    def declared_too_large(self) -> bool:
        return self._declared > self._limit

    async def lower(self, max_bytes: int) -> None:
        """Allow less, now that it is known whose it is. Raises PayloadTooLarge."""
        self._limit = min(self._limit, max_bytes * self._times)
        if self.declared_too_large:
            await self.drain()
            raise self.error()

    async def receive(self) -> Message:
        if self._ended:  # what is waited for now is that the client goes away
            return await self._receive()
        message = await self._next()
        if self._read > self._limit:
            await self.drain()
            raise self.error()
        return message

    async def drain(self) -> None:
        """Read on, so that the client gets to the answer."""
        with suppress(RequestTimeout):
            while not self._ended and self._read <= self._limit * _DRAINED_TIMES_LIMIT:
                await self._next()

    async def _next(self) -> Message:
        """Raises RequestTimeout when it does not come, or has come too slowly so far."""
        earned = self._timeout_seconds + self._read / _MIN_BYTES_PER_SECOND - self._waited_seconds
        started = time.monotonic()
        try:
            async with asyncio.timeout(min(self._timeout_seconds, earned)):
                message = await self._receive()
        except TimeoutError:
            raise RequestTimeout(
                f"The rest of the body did not come; {self._read} bytes of it did. Send the request again, all of it."
            ) from None
        self._waited_seconds += time.monotonic() - started
        self._read += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        return message

    def error(self) -> PayloadTooLarge:
        remedy = "send less at once" if self._times == 1 else "`memory-service import` takes files of any size"
        return PayloadTooLarge(f"The body is larger than {self._limit} bytes; {remedy}.", limit_bytes=self._limit)
