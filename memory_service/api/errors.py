"""From errors to answers: the one table of statuses, and the one body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from memory_service import errors
from memory_service.api.openai import errors as openai
from memory_service.core.canonical import dumps

STATUSES: tuple[tuple[type[errors.MemoryServiceError], int], ...] = (
    (errors.InvalidInput, 422),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Unauthenticated, 401),
    (errors.RateLimited, 429),
    (errors.PayloadTooLarge, 413),
    (errors.UnsupportedMediaType, 415),
    (errors.RequestTimeout, 408),
    (errors.Unavailable, 503),
)
# What cannot even be read is 400; what is read and wrong is 422.
_UNREADABLE = frozenset({"invalid_json", "invalid_header"})
_MAX_PROBLEMS = 20
_MAX_NAME_CHARACTERS = 64
_MAX_PATH_CHARACTERS = 200
# A body may have a million fields that are not known; what is missing comes before them.
_MAX_LOOKED_AT = 1_000
_KEY = "[key]"
# For the log; there is nobody to read it.
_CLIENT_WENT_AWAY = 499
# pydantic's problems in our words, filled in with its figures.
_TOLD = {
    "missing": "this field is required",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer of a sensible size",
    "int_from_float": "must be an integer",
    "bool_type": "must be a boolean, true or false",
    "bool_parsing": "must be a boolean, true or false",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "datetime_parsing": "must be a date and time with its offset, such as 2026-09-30T00:00:00Z",
    "datetime_from_date_parsing": "must be a date and time with its offset, such as 2026-09-30T00:00:00Z",
    "timezone_aware": "must be a date and time with its offset, such as 2026-09-30T00:00:00Z",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "content_type": "must be a string or a list of content blocks",
    "text_or_list": "must be a string or a list",
    "text_or_object": "must be a string or an object",
}
# What callers of other APIs look for, and where it is here.
_ELSEWHERE = {
    "max_tokens": "the length of the answer is `max_output_tokens` of a prompt",
    "max_completion_tokens": "the length of the answer is `max_output_tokens` of a prompt",
    "system": "what a system prompt says belongs in the `instructions` of the thread or of its assistant",
    "system_prompt": "what a system prompt says belongs in the `instructions` of the thread or of its assistant",
    "strategy": "the field is called `truncation_strategy`; check its spelling",
    "user": "the end user is `user_id` of the thread",
    "input": "what a user says is `content` of a message",
}
# So that one is not "1 characters".
_SINGULAR = {" 1 characters": " 1 character", " 1 entries": " 1 entry"}
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
_BODY = "body"


def status_of(error: errors.MemoryServiceError) -> int:
    if error.code in _UNREADABLE:
        return 400
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def error_response(scope: Scope, status: int, code: str, message: str, details: Any = None) -> Response:
    """In OpenAI's form where OpenAI's API is spoken."""
    if openai.speaks(scope["path"]):
        status = openai.status_of(status, code)
        body = openai.error_body(status, code, message, details or {})
    else:
        request_id = str(scope.get("memory.request_id", ""))
        body = {"error": {"code": code, "message": message, "details": details or {}}, "request_id": request_id}
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if status == 503 or code == errors.IdempotencyInProgress.code:
        headers["retry-after"] = "1"
    if status == 408:  # the rest of the request may still come, and is no request of its own
        headers["connection"] = "close"
    return Response(dumps(body), status, headers, "application/json")


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(errors.MemoryServiceError)
    async def ours(request: Request, error: errors.MemoryServiceError) -> Response:
        answer = error_response(request.scope, status_of(error), error.code, error.message, error.details)
        if isinstance(error, errors.RateLimited):
            answer.headers["retry-after"] = str(error.retry_after_seconds)
            answer.raw_headers.extend(error.headers)
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # The first part of a location says where: body, query, path.
        found = invalid_input([{**problem, "loc": problem["loc"][1:] or problem["loc"]} for problem in error.errors()])
        return error_response(request.scope, 422, found.code, found.message, found.details)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        code = _HTTP_CODES.get(error.status_code, "http_error")
        answer = error_response(request.scope, error.status_code, code, _no_route(request, error))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_WENT_AWAY)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, _: Exception) -> Response:
        # Starlette raises the error again once this is sent, and the edge logs it.
        return internal_error(request.scope)


def _no_route(request: Request, error: HTTPException) -> str:
    path, method = request.url.path[:_MAX_PATH_CHARACTERS], request.method
    if error.status_code == 404:
        return f"There is no route {method} {path}; /openapi.json lists those there are."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path} does not take {method}, but {allowed}; /openapi.json lists the routes."
    return f"{method} {path}: {error.detail}."


def internal_error(scope: Scope) -> Response:
    message = "Something unforeseen went wrong; the log has it under the request id."
    return error_response(scope, 500, "internal", message)


def invalid_input(problems: Sequence[Mapping[str, Any]]) -> errors.InvalidInput:
    """pydantic's errors in our words: the first one is the message, the details list the first twenty."""
    problems = problems[:_MAX_LOOKED_AT]
    told: list[dict[str, str]] = []
    for problem in _misspelt_first(problems)[:_MAX_PROBLEMS]:
        if (found := _told(problem, _meant(problem, problems))) not in told:  # two parts of a route may read one field
            told.append(found)
    first = told[0]
    message = first["message"] if first["field"] == _BODY else f"`{first['field']}`: {first['message']}"
    return errors.InvalidInput(f"{message}.", field=first["field"], problems=told)


def _misspelt_first(problems: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """A field that is not known says more than the one that is missing for it."""
    return sorted(problems, key=lambda problem: _meant(problem, problems) is None)


def _meant(problem: Mapping[str, Any], problems: Sequence[Mapping[str, Any]]) -> str | None:
    """Which required field, missing beside it, an unknown one was to be."""
    if problem["type"] != "extra_forbidden":
        return None
    *where, name = problem["loc"]
    missing = [p["loc"][-1] for p in problems if p["type"] == "missing" and p["loc"] and [*p["loc"][:-1]] == where]
    shortened = [field for field in missing if name.startswith(field) or field.startswith(name)]
    return next(iter(shortened or get_close_matches(name, missing, 1)), None)


def _told(problem: Mapping[str, Any], meant: str | None) -> dict[str, str]:
    field = field_name(problem["loc"])
    if meant is not None:
        return {"field": field, "message": f"this field is not known; did you mean `{meant}`? That one is required"}
    return {"field": field, "message": _body_problem(problem) if field == _BODY else _problem(problem)}


def _body_problem(problem: Mapping[str, Any]) -> str:
    """The body is no field that anybody sends: what is wrong with all of it."""
    if problem["type"] == "value_error":
        return f"In the body, {_problem(problem)}"
    return "Send a JSON object as the body"


def field_name(location: Sequence[Any]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`.

    Tags of unions, which we write `<tag>`, and pydantic's mark for a key are no part of a name.
    """
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part != _KEY and not (part.startswith("<") and part.endswith(">")):
            name += f".{part[:_MAX_NAME_CHARACTERS]}" if name else part[:_MAX_NAME_CHARACTERS]
    return name or _BODY


def _problem(problem: Mapping[str, Any]) -> str:
    kind, field, context = problem["type"], problem["loc"][-1:], problem.get("ctx", {})
    if kind == "value_error":  # our own words
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden" and field == ("tool_calls",):
        return (
            "is not kept in this form; report the reply with the prompt's usage, or send tool_use blocks in `content`"
        )
    if kind == "extra_forbidden":
        hint = _ELSEWHERE.get(str(field[0]))
        return f"this field is not known; {hint or 'check its spelling'}"
    subject = "the key " if field == (_KEY,) else ""
    told = _TOLD.get(kind, "is not valid").format_map(context)
    for plural, singular in _SINGULAR.items():
        told = told.replace(plural, singular)
    return subject + told
