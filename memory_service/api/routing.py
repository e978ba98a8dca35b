"""What every route does before FastAPI looks at a request, and what it adds to its own description."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from difflib import get_close_matches
from typing import Any

from fastapi import Request, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.responses import Response
from fastapi.routing import APIRoute

from memory_service.api import answers
from memory_service.api.limits import Limits
from memory_service.core.canonical import check_text, loads
from memory_service.errors import InvalidInput, Unauthenticated, UnsupportedMediaType
from memory_service.runtime import Runtime
from memory_service.store import projects
from memory_service.store.projects import AuthenticatedKey

MAX_IDEMPOTENCY_KEY_CHARACTERS = 255
_MAX_NAME_CHARACTERS = 64
_INLINE_BYTES = 50_000
_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Sent again within 24 hours with the same body, the request is answered as before and has no second "
    "effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_CHARACTERS},
}


class CanonicalRequest(Request):
    """Reads JSON without losing how numbers were spelled, and refuses text that cannot be stored."""

    async def json(self) -> Any:
        if not hasattr(self, "_canonical"):
            body = await self.body()
            # Beside the event loop when it is long: very many small values take seconds to read.
            self._canonical = _read(body) if len(body) <= _INLINE_BYTES else await asyncio.to_thread(_read, body)
        return self._canonical


def _read(body: bytes) -> Any:
    read = loads(body, unique_keys=True)
    check_text(read, "")
    return read


class StrictRoute(APIRoute):
    """Refuses query parameters that it does not declare: a misspelt filter would filter nothing."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        documented: Mapping[str, Any] = options.pop("openapi_extra", None) or {}
        if "POST" in (options.get("methods") or ()):
            documented = {**documented, "parameters": [*documented.get("parameters", []), _IDEMPOTENCY_KEY]}
        super().__init__(path, endpoint, openapi_extra=dict(documented) or None, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        route = super().get_route_handler()
        fields = get_flat_params(self.dependant)
        plain = {field.alias for field in fields if isinstance(field.field_info, params.Query)}
        documented = (self.openapi_extra or {}).get("parameters", [])
        deep = {parameter["name"] for parameter in documented if parameter.get("style") == "deepObject"}

        async def with_known_parameters(request: Request) -> Response:
            for name in request.query_params:
                if name not in plain and name.partition("[")[0] not in deep:
                    raise _unknown_parameter(name, sorted(plain | {f"{each}[key]" for each in deep}))
            return await route(request)

        return with_known_parameters


class AuthenticatedRoute(APIRoute):
    """Authenticates, then reads the body, both before FastAPI: it would answer a body it cannot read without saying why."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        route = super().get_route_handler()

        async def with_canonical_request(request: Request) -> Response:
            canonical = CanonicalRequest(request.scope, request.receive)
            key = await authenticate(canonical)
            canonical.state.project_id = key.project_id
            await _keep_to_limits(canonical, key)
            if self.body_field is not None and await canonical.body():
                _check_is_json(canonical)
                await canonical.json()
            return await route(canonical)

        return with_canonical_request


class CanonicalRoute(AuthenticatedRoute, StrictRoute):
    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        statuses = _statuses(path, options.get("methods") or {"GET"})
        super().__init__(path, endpoint, **{**options, "responses": {**statuses, **(options.get("responses") or {})}})


def _unknown_parameter(name: str, known: list[str]) -> InvalidInput:
    shown = name[:_MAX_NAME_CHARACTERS]
    told = f"`{shown}` is not a query parameter of this route"
    if similar := get_close_matches(shown, known, 1):
        told += f"; did you mean `{similar[0]}`"
    listed = ", ".join(f"`{each}`" for each in known) or "none"
    end = "?" if similar else "."
    return InvalidInput(f"{told}{end} Known here: {listed}.", field=shown, known=known)


_STATUSES = {
    400: "A body that is no JSON, or a header that is not valid.",
    401: "No API key, or one that is unknown or revoked.",
    429: "Too many requests with this key; the header Retry-After says when to send it again.",
    404: "No such object in this project.",
    408: "The body stopped coming.",
    409: "The request contradicts the present state, or its Idempotency-Key was used for another one.",
    413: "The body is too large.",
    415: "The body is not called JSON by its Content-Type.",
    422: "The request is understood, and wrong; the message names the field and the remedy.",
    503: "Something the service depends on is away; send the request again.",
}


def _statuses(path: str, methods: Collection[str]) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, as its document has them."""
    possible = {401, 422, 429, 503}
    if "{" in path:
        possible |= {404}
    if "POST" in methods or "PATCH" in methods:
        possible |= {400, 408, 409, 413, 415}
    return {s: {"model": answers.ErrorBody, "description": _STATUSES[s]} for s in sorted(possible)}


async def authenticate(request: Request) -> AuthenticatedKey:
    """Whose request it is. Raises Unauthenticated, and RateLimited where too many wrong keys come from."""
    runtime: Runtime = request.app.state.runtime
    limits: Limits = request.app.state.limits
    address = request.client.host if request.client else ""
    key = _api_key(request)
    limits.check_address(address, key)
    found = await projects.authenticate(runtime.db, key)
    if found is None:
        limits.count_wrong_key(address, key)
        raise Unauthenticated("This API key is unknown or revoked; `memory-service keys create` makes one.")
    limits.count_good_key(key)
    request.scope["memory.key"] = found
    return found


async def _keep_to_limits(request: Request, key: AuthenticatedKey) -> None:
    limits: Limits = request.app.state.limits
    request.scope["memory.headers"] = limits.take(key)
    if key.max_body_bytes is not None:
        await request.scope["memory.body"].lower(key.max_body_bytes)


def _api_key(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    if not key:
        raise Unauthenticated(
            "No API key was sent; send `Authorization: Bearer msk_…`. The embedded service keeps its first key in "
            "<data-dir>/api_key."
        )
    return key


def _check_is_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType(
            "The body must be JSON; send the header `Content-Type: application/json`.", field="Content-Type"
        )
