"""From errors to answers: the one table of statuses, and the one body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from memory_service import errors
from memory_service.core.canonical import dumps

STATUSES: tuple[tuple[type[errors.MemoryServiceError], int], ...] = (
    (errors.InvalidInput, 422),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unauthenticated, 401),
    (errors.PayloadTooLarge, 413),
    (errors.Unavailable, 503),
)
# What cannot even be read is 400; what is read and wrong is 422.
_UNREADABLE = frozenset({"invalid_json", "invalid_header"})
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def status_of(error: errors.MemoryServiceError) -> int:
    if error.code in _UNREADABLE:
        return 400
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def error_response(request_id: str, status: int, code: str, message: str, details: Any = None) -> Response:
    body = {"error": {"code": code, "message": message, "details": details or {}}, "request_id": request_id}
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if status == 503 or code == errors.IdempotencyInProgress.code:
        headers["retry-after"] = "1"
    return Response(dumps(body), status, headers, "application/json")


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(errors.MemoryServiceError)
    async def ours(request: Request, error: errors.MemoryServiceError) -> Response:
        return error_response(_id(request), status_of(error), error.code, error.message, error.details)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [{"field": field_name(p["loc"]), "message": _problem(p)} for p in error.errors()]
        first = problems[0]
        return error_response(
            _id(request),
            422,
            "invalid_request",
            f"`{first['field']}`: {first['message']}.",
            {"problems": problems},
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        message = f"{request.method} {request.url.path}: {error.detail}. See /docs for the routes."
        answer = error_response(_id(request), error.status_code, code, message)
        answer.headers.update(error.headers or {})
        return answer


def field_name(location: Sequence[Any]) -> str:
    """`("body", "messages", 0, "role")` as `messages[0].role`."""
    name = ""
    for part in location[1:]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name or str(location[0])


def _problem(problem: Any) -> str:
    message: str = problem["msg"]
    if problem["type"] == "extra_forbidden":
        return "this field is not known; check its spelling"
    if problem["type"] == "missing":
        return "this field is required"
    return message[0].lower() + message[1:]


def _id(request: Request) -> str:
    return str(request.scope.get("memory.request_id", ""))
