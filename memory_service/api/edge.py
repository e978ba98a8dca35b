"""The outermost layer, as plain ASGI: request ids, body limits, a last catch for what nobody foresaw, one log line."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memory_service.api.errors import error_response
from memory_service.errors import PayloadTooLarge
from memory_service.runtime import new_id
from memory_service.telemetry import logger

# A client that is still sending would see a broken connection instead of the answer, so a moderate excess is read.
_DRAINED_TIMES_LIMIT = 4


class Edge:
    """`limit_of` gives the largest body for a path, in bytes."""

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
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        limit = self._max_import_bytes if scope["path"].endswith("/import") else self._max_body_bytes
        body = _LimitedBody(scope, receive, limit)
        try:
            if body.declared_too_large:
                raise body.error()
            await self._app(scope, body.receive, send_with_id)
        except PayloadTooLarge as error:
            await body.drain()
            if status == 0:
                answer = error_response(request_id, 413, error.code, error.message, error.details)
                await answer(scope, receive, send_with_id)
        except Exception:
            logger.exception("unforeseen error", extra={"fields": {"request_id": request_id}})
            if status == 0:
                answer = error_response(
                    request_id,
                    500,
                    "internal",
                    "Something unforeseen went wrong; the log has it under the request id.",
                )
                await answer(scope, receive, send_with_id)
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
            raise self.error()
        return message

    async def drain(self) -> None:
        while not self._ended and self._read <= self._limit * _DRAINED_TIMES_LIMIT:
            message = await self._receive()
            self._read += len(message.get("body", b""))
            self._ended = not message.get("more_body", False)

    def error(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The body is larger than {self._limit} bytes; send less at once.", limit_bytes=self._limit
        )
