"""The outermost layer, as plain ASGI: request ids, server times, body limits, a last catch for what nobody foresaw, one
log line."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory_service.api.errors import error_response, internal_error
from memory_service.errors import PayloadTooLarge, Unavailable
from memory_service.runtime import new_id
from memory_service.telemetry import logger

# A client that is still sending would see a broken connection instead of the answer, so a moderate excess is read.
_DRAINED_TIMES_LIMIT = 4


class Edge:
    """Limits bodies in bytes: to `max_import_bytes` for an import, which is read as a stream, else `max_body_bytes`."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_import_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_import_bytes = max_import_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req", datetime.now(UTC))
        scope["memory.request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"server-timing", b"app;dur=%.2f" % ((time.perf_counter() - started) * 1000)),
                ]
            await send(message)

        limit = self._max_import_bytes if scope["path"].endswith("/import") else self._max_body_bytes
        body = _LimitedBody(scope, receive, limit)
        try:
            if body.declared_too_large:
                await body.drain()
                error = body.error()
                answer = error_response(request_id, 413, error.code, error.message, error.details)
                await answer(scope, receive, send_with_id)
            else:
                await self._app(scope, body.receive, send_with_id)
        except asyncio.CancelledError:  # the service ends, and waits no longer for what runs
            if status == 0:
                answer = error_response(request_id, 503, Unavailable.code, "The service is stopping; send it again.")
                await answer(scope, receive, send_with_id)
            raise
        except Exception:
            logger.exception("unforeseen error", extra={"fields": {"request_id": request_id}})
            if status == 0:
                await internal_error(request_id)(scope, receive, send_with_id)
        finally:
            route = scope.get("route")
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "route": getattr(route, "path", None),
                "status": status,
                "ms": round((time.perf_counter() - started) * 1000, 2),
            }
            logger.info("request", extra={"fields": fields})


class _LimitedBody:
    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._read = 0
        self._ended = False
        length = dict(scope["headers"]).get(b"content-length", b"")
        self.declared_too_large = length.isdigit() and int(length) > limit

    async def receive(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._read > self._limit:
            await self.drain()
            raise self.error()
        return message

    async def drain(self) -> None:
        """Read on, so that the client gets to the answer."""
        while not self._ended and self._read <= self._limit * _DRAINED_TIMES_LIMIT:
            message = await self._receive()
            self._read += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)

    def error(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The body is larger than {self._limit} bytes; send less at once.", limit_bytes=self._limit
        )
